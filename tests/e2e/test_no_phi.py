"""No identifier of a person leaves the files it came in: whole installation, every format, good, refused and broken.

Marked identifiers are sent through every door; then everything that Penstock wrote, served or printed is searched,
compressed and columnar forms decoded. Raw payloads alone hold them, encrypted.
"""

import contextlib
import json
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import polars as pl
import pyarrow as pa
import pytest
import redis
from installed import COMMAND_TIMEOUT_S, PENSTOCK, Installed, until
from marked_files import ENTITY, MARKS, REFUSED, UNREADABLE, WITNESS, broken_files, event, good_files, rows_frame
from penstock import Client, SubmitError, SubmitFailed
from typer.testing import CliRunner

from actors.cli import app
from adapters.sources import FORMATS
from runtime.errors import FrameError
from runtime.flow import frames

MORE = """
[payloads]
keep = true

[[consumer]]
name = "everyone"

[limits]                 # the log is looked at whole, before a checkpoint trims it
checkpoint_commits_max = 1_000_000
checkpoint_age_s_max = 3600
"""
FEED, FEED_MARK = "penstock:feed:card", "feedmark"  # what a source's own stream holds is its owner's
DRAIN_TIMEOUT_S, METRICS_TIMEOUT_S = 90.0, 40.0
COMMANDS = (
    ("status",),
    ("status", "--json"),
    ("exceptions", "list", "--limit", "10000"),
    ("exceptions", "list", "--json", "--limit", "10000"),
    ("reconcile",),
    ("export",),
    ("payload", "list"),
    ("trace", "g0"),
    ("trace", "j1", "--json"),  # makes a checkpoint
)
SQLITE = b"SQLite format 3\0"


def found_in(*texts: str | bytes) -> set[str]:
    """The marks that stand in these, whatever the case of their letters."""
    wholes = [
        text.lower() if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass").lower() for text in texts
    ]
    return {mark for mark in (*MARKS, FEED_MARK) for whole in wholes if mark.encode() in whole}


class Sent:
    """What was sent through every door, and all that was answered."""

    def __init__(self, penstock: Installed, folder: Path) -> None:
        self.penstock = penstock
        self.said: dict[tuple[str, ...], str] = {}
        self.streams: dict[bytes, list[bytes]] = {}
        self.good = good_files(folder)
        self.files = self.good | broken_files(folder, self.good)

    def submit(self, name: str) -> None:
        """Submit a file as a person would, and keep what is said: good ones also dry, broken ones also unnamed."""
        given = ["--format", name.partition(" ")[0]] if name.partition(" ")[0] in FORMATS else []
        for more in ([*given, "--json"], [*given, "--dry-run"]) if name in self.good else (given, []):
            words = ["submit", str(self.files[name]), "--entity", ENTITY, "-c", str(self.penstock.config), *more]
            done = CliRunner().invoke(app, words)
            assert isinstance(done.exception, (SystemExit, type(None))), f"{name}: {done.exception!r}"
            self.said[f"submit {name}", *more[-1:]] = done.stdout + done.stderr

    def command(self, *words: str) -> None:
        """Give a command; keep all that it prints."""
        done = subprocess.run(
            [PENSTOCK, *words, "-c", str(self.penstock.config)],
            env=self.penstock.marked.environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
        )
        self.said[words] = done.stdout + done.stderr

    def answers(self) -> None:
        """Rows and frames through the client; keep what is answered."""
        with Client(self.penstock.record().gateway) as client:
            answer = client.submit([event(f"g{n}") | columns for n, columns in enumerate(REFUSED)])
            self.said["rows refused",] = repr(answer)
            assert answer.rejected == len(REFUSED)
            self.said["frame refused",] = repr(client.submit(rows_frame("g")))
            for n, columns in enumerate(
                ({"Zoe Canary": "x"}, {"amount_minor": "Zoe Canary"}, {"occurred_at": "Canary"})
            ):
                with pytest.raises((SubmitError, SubmitFailed, FrameError, ValueError, TypeError)) as refused:
                    client.submit(pl.DataFrame([event("f") | columns]))
                self.said[f"frame {n}",] = f"{refused.value!r} {refused.value}"

    def feed(self) -> None:
        """Messages of a source's own stream, marked apart."""
        lines = [text.replace("Canary", "FeedMark").replace("knee surgery", "FeedMark") for text in UNREADABLE]
        refused = [json.dumps(event(f"w{n}", account="token-1") | columns) for n, columns in enumerate(REFUSED)]
        lines += [text.replace("Canary", "FeedMark").replace("CANARY", "FEEDMARK") for text in refused]
        lines = [text.replace("knee surgery", "FeedMark") for text in lines]
        with self.server() as server:
            for line in lines:
                server.xadd(FEED, {"event": line})
            server.xadd(FEED, {"FeedMark": "FeedMark"})
            until(lambda: server.xlen(f"{FEED}:dead") == len(lines) + 1, DRAIN_TIMEOUT_S, "all are set aside")

    @contextlib.contextmanager
    def server(self) -> Iterator[redis.Redis]:
        """The log's server."""
        with redis.Redis.from_url(self.penstock.wiring().log_url, protocol=2) as server:
            yield server

    def drained(self) -> None:
        """Wait until every row is committed, every posting posted, every consumer told."""

        def left() -> int:
            status = self.penstock.json("status")
            entries = sum(status["journal_entries"].get(s, 0) for s in ("sealed", "in_flight", "unknown"))
            waiting = sum(shard["waiting"] for shard in status["log"]["shards"])
            return entries + waiting + status["posting_sets_waiting"] + status["outbox_frames"]

        until(lambda: not left(), DRAIN_TIMEOUT_S, "everything is booked and posted")


@pytest.fixture(scope="module")
def sent(folder: Path, demo_on_free_ports: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sent]:
    """An installation of its own, through which everything has gone; its log is looked at before it is trimmed."""
    penstock = Installed(folder, "phi", demo_on_free_ports + MORE)
    try:
        penstock.run("up")
        sent = Sent(penstock, tmp_path_factory.mktemp("marked"))
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in penstock.marked.environment if name.startswith("PENSTOCK_")]:
                patch.setenv(name, penstock.marked.environment[name])
            for name in sent.files:
                sent.submit(name)
        sent.answers()
        sent.feed()
        sent.drained()
        with sent.server() as server:
            sent.streams = {key: everything_in(server, key) for key in server.scan_iter(count=1000)}
        for words in COMMANDS:
            sent.command(*words)
        yield sent
    finally:
        penstock.end()


# ── looking into things ────────────────────────────────────────────────────────────────────────────────────────────


def everything_in(server: redis.Redis, key: bytes) -> list[bytes]:
    """All that a key of the log's server holds, frames decoded."""
    kind = server.type(key)
    if kind == b"stream":
        return [
            text for _, fields in server.xrange(key) for name, value in fields.items() for text in (name, *forms(value))
        ]
    if kind == b"hash":
        return [text for name, value in server.hgetall(key).items() for text in (name, *forms(value))]
    return list(forms(server.get(key))) if kind == b"string" else [repr(kind).encode()]


def forms(held: bytes) -> Iterator[bytes]:
    """Bytes as they are, and what they are the form of: an Arrow stream or file, Parquet, MessagePack, SQLite."""
    yield held
    if held[:4] == b"PAR1":
        yield from rows_of(pl.read_parquet(held))
    elif held[:4] == b"\xff\xff\xff\xff":
        with contextlib.suppress(pa.ArrowInvalid):
            yield from rows_of(pl.from_arrow(pa.ipc.open_stream(held).read_all()))
    elif held[:6] == b"ARROW1":
        yield from rows_of(pl.read_ipc(held))
    elif held[:4] == b"PSN1":  # a snapshot: the names of its runs, which hold hashes alone, then its body
        yield from leaves(_unpacked(held[8 + int.from_bytes(held[4:8], "little") :]))
    else:
        yield from leaves(_unpacked(held))


def _unpacked(held: bytes) -> object:
    """A MessagePack structure; None for bytes that are none, which may look like one at first."""
    try:
        return msgspec.msgpack.decode(held)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def rows_of(frame: pl.DataFrame) -> Iterator[bytes]:
    """A frame's column names and rows as text, and what its byte strings hold."""
    yield repr(frame.columns).encode()
    for row in frame.iter_rows():
        yield repr(row).encode()
        yield from leaves(row)


def leaves(value: object) -> Iterator[bytes]:
    """Every text and every byte string in a decoded structure."""
    if isinstance(value, dict):
        yield from (text for pair in value.items() for one in pair for text in leaves(one))
    elif isinstance(value, (list, tuple)):
        yield from (text for one in value for text in leaves(one))
    elif isinstance(value, bytes):
        yield from forms(value)
    elif isinstance(value, str):
        yield value.encode()


def cells_of(path: Path) -> Iterator[tuple[str, bytes]]:
    """Every cell of every table of an SQLite file, by table."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in database.execute(f'SELECT * FROM "{table}"'):
                for cell in row:
                    for text in forms(cell) if isinstance(cell, bytes) else [str(cell).encode()]:
                        yield table, text


def files_under(folder: Path) -> list[Path]:
    """Every plain file, wherever it lies."""
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]


# ── claims ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_phi_marks_are_in_what_was_sent_and_events_came_of_it(sent) -> None:
    """The test is sharp: every file holds marks, every format gave accepted events, and the search finds both."""
    assert all(
        found_in(path.read_bytes()) or any(map(found_in, forms(path.read_bytes()))) for path in sent.good.values()
    )
    accepted = {name: json.loads(sent.said[f"submit {name}", "--json"])["accepted"] for name in sent.good}
    assert all(accepted.values()), accepted
    assert set(sent.good) >= set(FORMATS) - {"277", "x12"}
    assert found_in(frames.encode(rows_frame("x"))) and found_in(
        *forms(frames.encode(pl.concat([rows_frame("x")] * 200)))
    )


def test_phi_log_streams_and_consumers_hold_no_mark(sent) -> None:
    """No stream or other key of the log's server holds a mark, but for what a source put into a stream of its own."""
    held = {key.decode(): texts for key, texts in sent.streams.items() if not key.startswith(FEED.encode())}
    assert {key: marks for key, texts in held.items() if (marks := found_in(*texts))} == {}
    assert any(WITNESS.encode() in text for key, texts in held.items() if ":log:" in key for text in texts)
    assert len(held["penstock:status:everyone"]) > 3


def test_phi_dead_letters_add_nothing_to_what_the_source_wrote(sent) -> None:
    """A dead letter is the message as its source wrote it, on its own server; reason and place hold no mark."""
    with sent.server() as server:
        letters = [fields for _, fields in server.xrange(f"{FEED}:dead")]
    added = [value for fields in letters for name, value in fields.items() if name.startswith(b"penstock_")]
    assert len(letters) > 10 and len(added) == 4 * len(letters)
    assert found_in(*added) == set()


def test_phi_commands_and_errors_say_no_mark(sent) -> None:
    """Nothing that a command printed or the gateway answered holds a mark: tables, JSON, errors, dry runs."""
    found = {what: marks for what, text in sent.said.items() if (marks := found_in(text))}
    assert found == {}
    assert sum("error:" in text for text in sent.said.values()) > 20


def test_phi_metrics_show_no_mark(sent) -> None:
    """What Prometheus reads, labels and all, holds no mark."""
    url = sent.penstock.record().metrics_url

    def shown() -> str:
        text = httpx.get(url, trust_env=False).text
        return text if "ray_penstock_events_rejected" in text else ""

    assert found_in(until(shown, METRICS_TIMEOUT_S, "metrics are shown")) == set()


def test_phi_books_and_erp_hold_no_mark(sent) -> None:
    """No table of the books, and none of the ERP's database with its journals, holds a mark in any cell."""
    databases = [path for path in files_under(sent.penstock.data) if path.open("rb").read(16) == SQLITE]
    assert len(databases) >= 2
    cells = {path.name: list(cells_of(path)) for path in databases}
    found = {(name, table) for name, held in cells.items() for table, text in held if found_in(text)}
    assert found == set()
    tables = {table for table, _ in cells["books.sqlite"]}
    assert tables >= {"entries", "exceptions", "posting_sets", "totals"}


def test_phi_archive_and_snapshots_hold_no_mark(sent) -> None:
    """Neither the archive's columns nor the shards' snapshots hold a mark, decoded; both hold what travels."""
    root = Path(sent.penstock.wiring().archive_root)
    for pattern in ("steps/**/*.parquet", "snapshots/**/*.snap"):
        texts = [text for path in root.glob(pattern) for text in forms(path.read_bytes())]
        assert len(texts) > 10 and found_in(*texts) == set(), pattern
        assert any(WITNESS.encode() in text for text in texts), pattern


def test_phi_no_file_of_the_installation_holds_a_mark(sent) -> None:
    """No file under the installation's folder or Ray's, logs first of all, holds a mark as plain bytes."""
    files = files_under(sent.penstock.config.parent)
    logs = [path for path in files if path.suffix in (".jsonl", ".log", ".out", ".err")]
    assert len(logs) > 10 and any(path.name == "worker-0.jsonl" for path in logs)
    assert any("session_" in str(path) for path in logs)
    found = {str(path): marks for path in files if (marks := found_in(path.read_bytes()) - {FEED_MARK})}
    assert found == {}
    assert {path.name for path in logs if found_in(path.read_bytes())} == set()


def test_phi_payload_store_alone_gives_the_files_back(sent) -> None:
    """Every file that was submitted is kept whole and encrypted; with the key it comes back as it was."""
    kept = sent.penstock.json("payload", "list")
    originals = {path.read_bytes() for path in sent.files.values()}
    assert len(kept) == len(originals)
    some = json.loads(sent.said["submit 835", "--json"])["payload"]
    whole = CliRunner().invoke(app, ["payload", "get", some, "-c", str(sent.penstock.config)]).stdout_bytes
    assert whole == sent.good["835"].read_bytes() and found_in(whole)
