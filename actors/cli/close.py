"""`penstock close`: brings a period's postings to the ERP by a time, says how that goes, declares it closed.

Owns gathering what a forecast needs, and the command. What is left and what refuses a close is the books' to say.
"""

import contextlib
import time
from collections import Counter
from datetime import UTC, date, datetime
from typing import Annotated, Any

import msgspec
import typer

from actors.cli.installation import Installation
from actors.cli.terminal import AsJson, ConfigFile, load, money, out, print_json, print_table, told
from actors.cli.workplace import now_ms, opened_books
from runtime.config import Config
from runtime.errors import ConfigError, PenstockError
from runtime.flow.closing import Forecast, Pace, due_at, first_day_after, first_day_of, forecast
from runtime.ports import Books, PeriodClose

HEALTH_TIMEOUT_S = 5.0
EXCEPTIONS_MAX = 100_000  # looked at for one forecast
EMPTY_AT_CLOSE = "SUSPENSE"  # the role of what nobody has found a place for
NOT_ORDERED = "not ordered"  # the state of a period that nobody asked to close
DECLARED_WITHIN_S, LOOK_AGAIN_S = 15.0, 0.5

_SHOWN = ["sets_unclaimed", "entries_moving", "entries_stuck", "calls_left", "calls_per_minute", "erp_health"]


def close(
    *,
    entity: Annotated[str, typer.Option(help="The entity whose period it is.")],
    period: Annotated[str, typer.Option(help="The period, as 2026-10.")],
    by: Annotated[str, typer.Option(help="Order it: all posted by 17:00 (UTC), or by 2026-11-03T17:00.")] = "",
    done: Annotated[bool, typer.Option("--done", help="Declare it closed, unless anything is unposted.")] = False,
    opens_on: Annotated[str, typer.Option(help="Where late events post; the next month's first day.")] = "",
    who: Annotated[str, typer.Option(help="Who does it; the name is kept.")] = "operator",
    config: ConfigFile = "",
    json: AsJson = False,
) -> None:
    """Show what of a period is not posted, when it will be at the ERP's present pace, and what is in the way.

    With --by its entries go before all others from now on. With --done it is cut off, unless anything is unposted: what
    comes later posts into the next period, with its own date as an attribute. It is declared closed once every event
    that was acknowledged before is booked and posted; that is waited for a while, and otherwise done by itself later.
    Fails when it will not be in time, or is not closed yet.
    """
    with told():
        settled = load(config)
        _check(settled, entity, period)
        opening = _day(opens_on) if opens_on else first_day_after(period)
        pace, refusal = present_pace(settled), ""
        with opened_books(settled) as books:
            if by:
                _stored(lambda: books.order_close(entity, period, due_at(by, now_ms()), who))
            if done:
                wanted = PeriodClose(entity, period, 0, who, opens_on=opening)
                wait_s = DECLARED_WITHIN_S if pace.known else 0.0
                refusal = _closed(books, wanted, settled.runtime.shards, wait_s)
            found = standing(books, entity, period, pace, now_ms())
    if json:
        print_json({**msgspec.to_builtins(found), "refused": refusal})
    else:
        _show(found, refusal)
    fine = found.done if found.state == "declared" else found.in_time
    raise typer.Exit(1 if refusal or not fine else 0)


def standing(books: Books, entity: str, period: str, pace: Pace, at_ms: int) -> Forecast:
    """How the close of a period stands, whether it was ordered or not."""
    known = {(each.entity, each.period): each for each in books.closes()}
    order = known.get((entity, period))
    taken = order or PeriodClose(entity, period, at_ms, "")
    found = forecast(taken, books.period_left(entity, period), pace, at_ms, issues(books, entity, period))
    return found if order else msgspec.structs.replace(found, state=NOT_ORDERED)


def issues(books: Books, entity: str, period: str) -> dict[str, int]:
    """Open exceptions of an entity by type, the events of it that wait for a counterpart, and what should be empty at
    the period's end and is not."""
    raised = books.exceptions("open", limit=EXCEPTIONS_MAX)
    counts = Counter(raised.filter(raised["entity"] == entity)["type"].to_list())
    totals = books.totals()
    waiting = totals.filter((totals["entity"] == entity) & (totals["state"] == "pending"))["events"].sum()
    unsolved = books.role_balances(entity, EMPTY_AT_CLOSE, period).items()
    left = {
        f"{EMPTY_AT_CLOSE} {account}: {money(net, currency)} {currency}": 1 for (account, currency), net in unsolved
    }
    return {**left, **{f"exceptions: {type}": count for type, count in counts.items()}, "waiting events": int(waiting)}


def present_pace(config: Config) -> Pace:
    """What the poster says of its ERP; what is configured when nothing runs."""
    bounds = config.bounds()
    configured = Pace(config.erp.calls_per_minute, bounds.call_entries_max, call_lines_max=bounds.call_lines_max)
    with contextlib.suppress(PenstockError):
        installation = Installation(config)
        with installation.stage(installation.record()) as stage:
            health = stage.ping([name for name in stage.names if name == "poster"], HEALTH_TIMEOUT_S)
        return pace_of(getattr(health.get("poster"), "detail", None), configured)
    return configured


def pace_of(detail: dict[str, Any] | None, configured: Pace) -> Pace:
    """The pace that a poster's health tells, or the configured one when it tells none."""
    if not detail:
        return configured
    governor = detail["governor"]
    return Pace(
        calls_per_minute=governor["rate_per_minute"],
        call_entries_max=detail["call_entries_max"],
        health=governor["health"],
        paused_until_ms=governor["paused_until_ms"],
        known=True,
        concurrency=governor["concurrency"],
        call_s=detail["call_s"],
        settle_s=detail["settle_s"],
        call_lines_max=detail["call_lines_max"],
    )


def _check(config: Config, entity: str, period: str) -> None:
    first_day_of(period)
    if entity not in config.erp_entities():
        raise ConfigError(f"--entity: {entity!r} posts to no ERP; known are {', '.join(config.erp_entities())}")


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--opens-on: {text!r} is no day (2026-11-01)") from None


def _closed(books: Books, wanted: PeriodClose, shards: int, wait_s: float) -> str:
    """Cut the period off and declare it closed once everything from before is posted; why that is not so yet."""
    try:
        books.cut_off(wanted.entity, wanted.period, wanted.opens_on, wanted.ordered_by)
    except ValueError as error:
        return str(error)
    until_s = time.monotonic() + wait_s
    while refusal := _refusal(books, wanted, shards):
        if time.monotonic() >= until_s:
            return refusal
        time.sleep(LOOK_AGAIN_S)
    return ""


def _refusal(books: Books, wanted: PeriodClose, shards: int) -> str:
    try:
        books.declare_closed(wanted.entity, wanted.period, shards)
    except ValueError as error:
        return str(error)
    return ""


def _stored(store: Any) -> None:
    try:
        store()
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _show(found: Forecast, refusal: str) -> None:
    print_table(f"{found.entity} {found.period}: {found.state}", [msgspec.to_builtins(found)], _SHOWN)
    if found.blockers:
        print_table("in the way", msgspec.to_builtins(found.blockers), ["what", "count", "refuses"])
    if found.done:
        out.print("[green]everything is posted[/green]")
    else:
        source = "" if found.pace_known else " (configured: no poster answers)"
        due = "" if found.state == NOT_ORDERED else f"; due {_time(found.due_ms)}"
        out.print(f"posted by {_time(found.done_ms)} at this pace{source}{due}")
    if refusal:
        out.print(f"[red]not closed:[/red] {refusal}", highlight=False)


def _time(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
