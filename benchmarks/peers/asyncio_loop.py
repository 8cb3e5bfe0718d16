"""Plain Python: an asyncio reader and a loop over dictionaries, one SQLite transaction for each batch.

Tuned: msgspec with only the needed columns; batches of 10,000; sums gathered in a batch before
they are written; write-ahead log with a full sync. Durable after each batch: ids with the hash of their content,
states, sums. Its memory holds every id, as a dictionary.
"""

import asyncio
import hashlib
import sqlite3
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.peers.rows_in_python import Matcher, decode
from benchmarks.peers.task import Outcome, in_batches, measure

BATCH = 10_000
BATCHES_WAITING = 4
TABLES = """
PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
CREATE TABLE events (source TEXT, event_id TEXT, content BLOB, held INT, PRIMARY KEY (source, event_id)) WITHOUT ROWID;
CREATE TABLE conflicts (name TEXT);
CREATE TABLE sums (entity TEXT, facility TEXT, department TEXT, period TEXT, kind TEXT, amount INT,
                   PRIMARY KEY (entity, facility, department, period, kind)) WITHOUT ROWID;
"""
ADD = "INSERT INTO sums VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET amount = amount + excluded.amount"
RELEASE = "UPDATE events SET held = 0 WHERE source = ? AND event_id = ?"


class Books:
    """The state in memory and in the database."""

    def __init__(self, path: Path) -> None:
        self.database = sqlite3.connect(path, isolation_level=None)
        self.database.executescript(TABLES)
        self.seen: dict[tuple[str, str], bytes] = {}
        self.matcher = Matcher()
        self.repeats = 0

    def take(self, lines: list[bytes]) -> None:
        """One batch, one transaction."""
        new, conflicts, released, sums = {}, [], [], Counter()
        for line in lines:
            row, content = decode(line), hashlib.blake2b(line, digest_size=8).digest()
            key = (row.source, row.event_id)
            known = self.seen.setdefault(key, content)
            if known is not content:
                if known == content:
                    self.repeats += 1
                else:
                    conflicts.append((row.name,))
                continue
            new[key] = [*key, content, 1]
            for ready in self.matcher.take(row):
                sums[ready.key] += ready.amount_minor
                entered = new.get((ready.source, ready.event_id))
                if entered:
                    entered[-1] = 0
                else:
                    released.append((ready.source, ready.event_id))
        self.database.execute("BEGIN")
        self.database.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", new.values())
        self.database.executemany("INSERT INTO conflicts VALUES (?)", conflicts)
        self.database.executemany(RELEASE, released)
        self.database.executemany(ADD, [(*key, amount) for key, amount in sums.items()])
        self.database.execute("COMMIT")

    def outcome(self) -> Outcome:
        """Everything but the repeats from the database."""
        conflicts = self.database.execute("SELECT name FROM conflicts")
        held = self.database.execute("SELECT source || '/' || event_id FROM events WHERE held")
        sums = {tuple(key): amount for *key, amount in self.database.execute("SELECT * FROM sums")}
        return Outcome(self.repeats, [name for (name,) in conflicts], [name for (name,) in held], sums)


async def _read(path: Path, queue: asyncio.Queue) -> None:
    with path.open("rb") as file:
        for batch in in_batches(file, BATCH):
            await queue.put(batch)
    await queue.put(None)


async def _run(folder: Path) -> Outcome:
    with tempfile.TemporaryDirectory() as place:
        books, queue = Books(Path(place) / "books.sqlite"), asyncio.Queue(BATCHES_WAITING)
        reading = asyncio.create_task(_read(folder / "rows.jsonl", queue))
        while batch := await queue.get():
            books.take(batch)
        await reading
        outcome = books.outcome()
        books.database.close()
        return outcome


def run(folder: Path) -> Outcome:
    """The task over a folder of events."""
    return asyncio.run(_run(folder))


if __name__ == "__main__":
    measure(run)
