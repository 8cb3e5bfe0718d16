"""`approve` and `refuse`: what a second person does with a change that somebody prepared.

Owns the two commands, for every group of commands whose changes need them, and the words that all such commands share.
Who may approve, the books say.
"""

from typing import Annotated

import typer

from actors.cli import workplace
from actors.cli.terminal import AsJson, ConfigFile, load, out, print_json, told
from actors.cli.workplace import opened_books
from runtime.ports import ChangeType

By = Annotated[str, typer.Option("--by", help="Who does it; the name stays in the history.")]
Note = Annotated[str, typer.Option(help="Why; it stays in the history.")]
ChangeNo = Annotated[int, typer.Argument(help="The number of the change, as the list of proposals shows it.")]


def add_approve(app: typer.Typer, type: ChangeType, becomes: str) -> None:
    """Give a group `approve` for its changes. `becomes`: what an approved one is called, with its number; the JSON
    names that number by its last word."""

    @app.command(help=f"Put a proposed {type} in force that somebody else prepared.")
    def approve(number: ChangeNo, by: By, config: ConfigFile = "", json: AsJson = False) -> None:
        with told(), opened_books(load(config)) as books:
            in_force = workplace.approve(books, number, type, by)
        if json:
            print_json({"change": number, becomes.split()[-1]: in_force})
        else:
            out.print(f"change {number} is {becomes} {in_force}, on its way to every shard")


def add_refuse(app: typer.Typer, type: ChangeType) -> None:
    """Give a group `refuse` for its changes."""

    @app.command(help=f"End a proposed {type} without effect.")
    def refuse(number: ChangeNo, by: By, note: Note = "", config: ConfigFile = "", json: AsJson = False) -> None:
        with told(), opened_books(load(config)) as books:
            workplace.refuse(books, number, type, by, note)
        if json:
            print_json({"change": number, "state": "refused"})
        else:
            out.print(f"change {number} is refused")
