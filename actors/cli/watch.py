"""`penstock watch`: what flows through, look by look.

Owns what a look is, and the rates between two of them. Asks the gateway and the books, never Ray: it costs the parts
nothing and goes on while they are started again. Changes nothing.
"""

import time
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from itertools import count
from typing import Annotated, Any, NamedTuple

import orjson
import typer
from penstock import Client
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from actors.cli.installation import Installation
from actors.cli.reports import GATEWAY_TIMEOUT_S, UNSETTLED, log_state
from actors.cli.terminal import AsJson, ConfigFile, load, out, table_of, told
from adapters.books.sql import SqlBooks
from adapters.clock import utc_now_ms
from runtime.errors import BooksUnavailable
from runtime.ports import Books

STAGES = ["stage", "of", "done", "per_s", "waiting"]
SHARDS = ["shard", "appended", "appended_per_s", "committed_per_s", "waiting", "paused"]
Counts = dict[str, int | None]


class BookCounts(NamedTuple):
    """What the books count: rows, posting sets without an entry, entries by state, open exceptions."""

    rows: int
    sets_waiting: int
    entries: dict[str, int]
    exceptions: int


class Look(NamedTuple):
    """What gateway and books said at one moment. `at_s` only serves to tell how much later another one was; without
    `books` they did not answer."""

    at_s: float
    at: datetime
    log: dict[str, Any]
    books: BookCounts | None


def command(
    *,
    every: Annotated[float, typer.Option(min=0.2, max=3600, help="Seconds from one look to the next.")] = 1.0,
    times: Annotated[int, typer.Option(min=0, help="How many looks; 0: until Ctrl-C.")] = 0,
    config: ConfigFile = "",
    json: AsJson = False,
) -> None:
    """Show what flows through: events into log and books, entries to the ERP, what waits in between.

    Rates are those since the look before. With --json each look is one line. It goes on while parts do not answer.
    """
    with told(), suppress(KeyboardInterrupt):
        flows = _flows(Installation(load(config)), every, times)
        if json:
            for shown in flows:
                typer.echo(orjson.dumps(shown, option=orjson.OPT_UTC_Z))
        elif out.is_terminal:
            with Live(console=out, auto_refresh=False) as live:
                for shown in flows:
                    live.update(_drawn(shown), refresh=True)
        else:
            for shown in flows:
                out.print(_drawn(shown))


def _flows(installation: Installation, every_s: float, times: int) -> Iterator[dict[str, Any]]:
    """So many looks; without end when that is 0."""
    gateway, entities = installation.record().gateway, installation.config.erp_entities()
    with installation.client() as client, closing(SqlBooks(installation.wiring().books_url)) as books:
        before = None
        for number in count(1):
            now = look(client, gateway, books, entities)
            yield flow(before, now)
            if number == times:
                return
            before = now
            time.sleep(max(0.0, now.at_s + every_s - time.monotonic()))


def look(client: Client, gateway: str, books: Books, erp_entities: tuple[str, ...]) -> Look:
    """Ask both now."""
    at_s, at = time.monotonic(), datetime.fromtimestamp(utc_now_ms() / 1000, UTC)
    log = log_state(client, gateway, GATEWAY_TIMEOUT_S)
    try:
        rows, waiting = int(books.shard_rows()["rows_total"].sum()), books.unclaimed_count(erp_entities)
        counts = BookCounts(rows, waiting, books.entry_counts(), sum(books.exception_counts().values()))
    except BooksUnavailable:
        return Look(at_s, at, log, None)
    return Look(at_s, at, log, counts)


def flow(before: Look | None, now: Look) -> dict[str, Any]:
    """A look as plain data: stages from the log to the ERP, and shards. What is not known is None, as are the rates of
    a first look. Of each stage `waiting` is what has yet to reach it."""
    seconds = now.at_s - before.at_s if before else None
    done, done_before = _done(now), _done(before) if before else {}
    stages = [
        {"stage": stage, "of": of, "done": done[stage], "per_s": _rate(done_before.get(stage), done[stage], seconds)}
        | {"waiting": waiting}
        for (stage, of), waiting in zip(_STAGE_OF.items(), _waiting(now), strict=True)
    ]
    shards_before = {shard["shard"]: shard for shard in before.log["shards"]} if before else {}
    shards = [_shard(shards_before.get(shard["shard"]), shard, seconds) for shard in now.log["shards"]]
    return {
        "at": now.at,
        "stages": stages,
        "shards": shards,
        "exceptions": now.books.exceptions if now.books else None,
        "refusing": now.log["refusing"],
        "reason": now.log["reason"] or ("" if now.books else "the books do not answer"),
    }


_STAGE_OF = {"log": "events", "books": "events", "entries": "journal entries", "ERP": "journal entries"}


def _done(look: Look) -> Counts:
    shards, books = look.log["shards"], look.books
    return {
        "log": sum(shard["appended"] for shard in shards) if shards else None,
        "books": books.rows if books else None,
        "entries": sum(books.entries.values()) if books else None,
        "ERP": books.entries.get("posted", 0) if books else None,
    }


def _waiting(look: Look) -> list[int | None]:
    shards, books = look.log["shards"], look.books
    return [
        None,
        sum(shard["waiting"] for shard in shards) if shards else None,
        books.sets_waiting if books else None,
        sum(books.entries.get(state, 0) for state in UNSETTLED) if books else None,
    ]


def _shard(before: dict[str, Any] | None, now: dict[str, Any], seconds: float | None) -> dict[str, Any]:
    before = before or {}
    return {
        "shard": now["shard"],
        "appended": now["appended"],
        "appended_per_s": _rate(before.get("appended"), now["appended"], seconds),
        "committed_per_s": _rate(before.get("committed"), now["committed"], seconds),
        "waiting": now["waiting"],
        "paused": now["paused"],
    }


def _rate(before: int | None, now: int | None, seconds: float | None) -> int | None:
    """Whole units a second; None for what was not known, or counts anew."""
    return round((now - before) / seconds) if None not in (before, now) and seconds and now >= before else None


def _drawn(shown: dict[str, Any]) -> Group:
    exceptions = "?" if shown["exceptions"] is None else f"{shown['exceptions']:,}"
    last = f"{shown['at']:%H:%M:%S} UTC   open exceptions: {exceptions}"
    if shown["reason"]:
        last += f"   [red]{escape(shown['reason'])}[/red]"
    return Group(table_of(shown["stages"], STAGES), table_of(shown["shards"], SHARDS), Text.from_markup(last))
