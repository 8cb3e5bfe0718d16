"""`penstock exceptions`: the workplace of those who settle what is not booked.

Owns the commands. What is decided goes through the log: an exception ends when the engine has carried it out.
"""

from typing import Annotated, Any

import typer

from actors.cli import workplace
from actors.cli.second_person import By, Note, add_approve, add_refuse
from actors.cli.terminal import AsJson, ConfigFile, load, out, print_json, print_table, told
from actors.cli.workplace import Choice, Decided, Wish, opened_books, rulebook_of
from runtime.ledger.ageing import BUCKETS
from runtime.ports import DecisionAction

app = typer.Typer(help="What is not booked and needs a person or a later fact.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(help="The exception's id.")]
Ids = Annotated[list[str] | None, typer.Argument(help="Exceptions by their ids.")]
Type = Annotated[str, typer.Option("--type", help="All open ones of this type instead.")]
Entities = Annotated[list[str] | None, typer.Option("--entity", help="Of that type, only those of this entity.")]

_LISTED = ["exception_id", "type", "owner", "severity", "event_id", "entity", "amount_minor"]
_LISTED += ["age_h", "due_at", "standing", "detail"]
_PROPOSED = ["change_no", "action", "exceptions", "prepared_by", "prepared_at", "note"]


# ── reading ────────────────────────────────────────────────────────────────────────────────────────────────────────


@app.command("list")
def list_exceptions(
    *,
    type: Annotated[str, typer.Option(help="Only this type.")] = "",
    owner: Annotated[str, typer.Option(help="Only those that this owner works on.")] = "",
    entity: Annotated[str, typer.Option(help="Only of this entity.")] = "",
    state: Annotated[str, typer.Option(help="open, resolved, or empty for both.")] = "open",
    overdue: Annotated[bool, typer.Option("--overdue", help="Only those that should have ended by now.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, oldest first.")] = 50,
    config: ConfigFile = "",
    json: AsJson = False,
) -> None:
    """List exceptions with owner, age and due time."""
    choice = Choice([type] if type else [], owner, [entity] if entity else [], state, overdue)
    with told():
        settled = load(config)
        rulebook = rulebook_of(settled)
        with opened_books(settled) as books:
            choice = workplace.checked(books, rulebook, settled.entities, choice)
            found = workplace.listed(books, rulebook, choice, limit, workplace.now_ms())
    if json:
        print_json(found)
    else:
        print_table(f"{state or 'all'} exceptions", found, _LISTED)


@app.command()
def show(id: Id, config: ConfigFile = "", json: AsJson = False) -> None:
    """Show one exception, and all that happened to it: what, when and by whom."""
    with told():
        settled = load(config)
        with opened_books(settled) as books:
            found = workplace.shown(books, rulebook_of(settled), id, workplace.now_ms())
    if json:
        print_json(found)
        return
    history = found.pop("history")
    print_table(f"exception {id}", [found], [name for name in _LISTED if name in found] + ["state", "action"])
    print_table("history", history, ["changed_at", "change", "changed_by", "note"])


@app.command("ageing")
def show_ages(config: ConfigFile = "", json: AsJson = False) -> None:
    """Count the open exceptions of each type by age in days."""
    with told(), opened_books(load(config)) as books:
        found = workplace.aged(books, workplace.now_ms())
    if json:
        print_json(found)
    else:
        print_table("open exceptions by age in days", found, ["type", "currency", *BUCKETS, "open", "amount_minor"])


# ── deciding ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _deciding(action: DecisionAction, help: str) -> None:
    """A command that decides of exceptions: of those named, or of all of a type."""

    @app.command(action, help=help)
    def decide(
        *,
        ids: Ids = None,
        by: By,
        type: Type = "",
        entity: Entities = None,
        note: Note = "",
        config: ConfigFile = "",
        json: AsJson = False,
    ) -> None:
        _decide(Wish(action, by, note), ids, _all_of(type, entity), config, json)


_deciding("retry", "Try held events again. Those of some types need a second person, as the rulebook says.")
_deciding("release", "Let held events go on although a rule holds them, once a second person approves.")
_deciding("exclude", "Take held events out of the books for good, once a second person approves.")


def _all_of(type: str, entities: list[str] | None) -> Choice:
    return Choice(types=[type] if type else [], entities=entities or [])


def _decide(wish: Wish, ids: list[str] | None, choice: Choice, config: str, json: bool) -> None:
    with told():
        settled = load(config)
        rulebook = rulebook_of(settled)
        with opened_books(settled) as books:
            choice = workplace.checked(books, rulebook, settled.entities, choice)
            decided = workplace.decide(books, rulebook, wish, ids or [], choice)
    if json:
        print_json(decided._asdict())
    else:
        _say(wish.action, decided)


def _say(action: str, decided: Decided) -> None:
    numbers = ", ".join(str(number) for number in decided.changes)
    if decided.needs_approval:
        out.print(
            f"{action} of {decided.exceptions:,} exceptions is proposed as change {numbers}; somebody else puts it"
        )
        out.print(f"in force with: penstock exceptions approve {decided.changes[0]} --by NAME")
    else:
        out.print(f"{action} of {decided.exceptions:,} exceptions is on its way to every shard (change {numbers})")
    if decided.more:
        out.print("there are more of them: run it again when these have ended")


@app.command()
def proposals(config: ConfigFile = "", json: AsJson = False) -> None:
    """List decisions that wait for a second person."""
    with told(), opened_books(load(config)) as books:
        found = workplace.proposed(books, "decision")
    if json:
        print_json(found)
    else:
        print_table("decisions to approve", [_shortened(row) for row in found], _PROPOSED)


def _shortened(proposal: dict[str, Any]) -> dict[str, Any]:
    ids = proposal["exceptions"]
    return proposal | {"exceptions": ", ".join(ids[:3]) + (f" and {len(ids) - 3:,} more" if len(ids) > 3 else "")}


add_approve(app, "decision", "decision")
add_refuse(app, "decision")


@app.command()
def close(id: Id, by: By, note: Note, config: ConfigFile = "", json: AsJson = False) -> None:
    """End an exception that no event is held under, for instance a denial that was worked."""
    with told():
        settled = load(config)
        with opened_books(settled) as books:
            workplace.close(books, rulebook_of(settled), id, by, note)
    if json:
        print_json({"exception_id": id, "state": "resolved"})
    else:
        out.print(f"exception {id} is closed")


@app.command()
def note(
    id: Id,
    by: By,
    text: Annotated[str, typer.Option("--note", help="What to write.")],
    config: ConfigFile = "",
    json: AsJson = False,
) -> None:
    """Write into an exception's history."""
    with told(), opened_books(load(config)) as books:
        workplace.add_note(books, id, by, text)
    if json:
        print_json({"exception_id": id, "note": text})
    else:
        out.print(f"noted under exception {id}")
