"""FastStream on Redis, as a team would write it today: a consumer group on a stream, one SQL transaction a message.

The handler gets one event, judges it, and books it in one SQLite transaction; the message is acknowledged after that.
Tuned: 1,000 messages a read; write-ahead log with a full sync; all look-ups by primary key; the connection is kept.
Durable: each message in Redis (fsync on every write) and each transaction. Publishing is not counted, reading is.
"""

import asyncio
import logging
import os
import sqlite3
import sys
import tempfile
from pathlib import Path

import redis.asyncio as redis
from faststream.redis import RedisBroker, StreamSub
from faststream.redis.annotations import RedisStreamMessage as RedisMessage

from benchmarks.peers.rows_in_python import Row, decode
from benchmarks.peers.task import LINKS, Link, Outcome, in_batches, measure

URL = "PEERS_REDIS_URL"
MESSAGES_READ, PUBLISHED_AT_ONCE = 1_000, 1_000
READY, HELD = 0, 1
GROUP = "books"
TABLES = """
PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
CREATE TABLE events (source TEXT, event_id TEXT, content TEXT, held INT, PRIMARY KEY (source, event_id)) WITHOUT ROWID;
CREATE TABLE opened (item TEXT, name TEXT, PRIMARY KEY (item, name)) WITHOUT ROWID;
CREATE TABLE waiting (item TEXT, name TEXT, content TEXT);
CREATE INDEX waiting_for ON waiting (item, name);
CREATE TABLE others (name TEXT, conflict INT);
CREATE TABLE sums (entity TEXT, facility TEXT, department TEXT, period TEXT, kind TEXT, amount INT,
                   PRIMARY KEY (entity, facility, department, period, kind)) WITHOUT ROWID;
"""
ADD = "INSERT INTO sums VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET amount = amount + excluded.amount"


class Books:
    """The task in SQL, an event at a time."""

    def __init__(self, path: Path) -> None:
        self.database = sqlite3.connect(path, isolation_level=None)
        self.database.executescript(TABLES)

    def take(self, message: str) -> None:
        """One event, one transaction."""
        row = decode(message)
        self.database.execute("BEGIN IMMEDIATE")
        known = self._one("SELECT content FROM events WHERE source = ? AND event_id = ?", row.source, row.event_id)
        if known:
            self.database.execute("INSERT INTO others VALUES (?, ?)", (row.name, known[0] != message))
        else:
            self.database.execute("INSERT INTO events VALUES (?, ?, ?, ?)", (row.source, row.event_id, message, HELD))
            self._match(row, message)
        self.database.execute("COMMIT")

    def _match(self, row: Row, message: str) -> None:
        link = LINKS.get(row.kind, Link())
        if link.opens:
            opened = (link.opens[0], getattr(row, link.opens[1]))
            self.database.execute("INSERT INTO opened VALUES (?, ?)", opened)
            gone = "DELETE FROM waiting WHERE item = ? AND name = ? RETURNING content"
            for (released,) in self.database.execute(gone, opened).fetchall():
                self._book(decode(released))
        if link.waits:
            needed = (link.waits[0], getattr(row, link.waits[1]))
            if not self._one("SELECT 1 FROM opened WHERE item = ? AND name = ?", *needed):
                self.database.execute("INSERT INTO waiting VALUES (?, ?, ?)", (*needed, message))
                return
        self._book(row)

    def _book(self, row: Row) -> None:
        done = "UPDATE events SET held = ? WHERE source = ? AND event_id = ?"
        self.database.execute(done, (READY, row.source, row.event_id))
        self.database.execute(ADD, (*row.key, row.amount_minor))

    def _one(self, query: str, *values: str) -> tuple | None:
        return self.database.execute(query, values).fetchone()

    def outcome(self) -> Outcome:
        """What the database holds."""
        others = self.database.execute("SELECT name, conflict FROM others").fetchall()
        held = self.database.execute("SELECT source || '/' || event_id FROM events WHERE held").fetchall()
        sums = {tuple(key): amount for *key, amount in self.database.execute("SELECT * FROM sums")}
        conflicts = [name for name, conflict in others if conflict]
        return Outcome(len(others) - len(conflicts), conflicts, [name for (name,) in held], sums)


async def publish(folder: Path) -> None:
    """Put the events of a folder into the stream named by its path; the group reads it from its beginning."""
    async with redis.from_url(os.environ[URL]) as client:
        await client.xgroup_create(str(folder), GROUP, id="0", mkstream=True)
        with (folder / "rows.jsonl").open("rb") as file:
            for lines in in_batches(file, PUBLISHED_AT_ONCE):
                async with client.pipeline(transaction=False) as pipeline:
                    for line in lines:
                        pipeline.xadd(str(folder), {"__data__": line.rstrip()})
                    await pipeline.execute()


async def _run(folder: Path, events: int) -> Outcome:
    broker, done = RedisBroker(os.environ[URL], logger=None), asyncio.Event()
    stream = StreamSub(str(folder), group=GROUP, consumer="one", max_records=MESSAGES_READ)
    with tempfile.TemporaryDirectory() as place:
        books, taken = Books(Path(place) / "books.sqlite"), 0

        @broker.subscriber(stream=stream)
        async def handle(message: RedisMessage) -> None:
            nonlocal taken
            books.take(message.body.decode())
            taken += 1
            if taken == events:
                done.set()

        async with broker:
            await broker.start()
            await done.wait()
        outcome = books.outcome()
        books.database.close()
        return outcome


def run(folder: Path) -> Outcome:
    """The task over a folder of events, published before."""
    with (folder / "rows.jsonl").open("rb") as file:
        events = sum(1 for _ in file)
    return asyncio.run(_run(folder, events))


def main() -> None:
    """Publish everything, then measure."""
    logging.disable()
    for name in ("warm", "small", "full"):
        asyncio.run(publish(Path(sys.argv[1]) / name))
    measure(run)


if __name__ == "__main__":
    main()
