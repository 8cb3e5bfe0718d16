"""`penstock backup` and `penstock restore`.

Owns the options and the look of the answers; `copies` does the work.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from actors.cli import copies
from actors.cli.installation import Installation
from actors.cli.terminal import AsJson, ConfigFile, load, out, print_json, told

KEYS_HELP = "Also copy the key of the tokens and that of the payloads. Whoever has them can read both."


def backup(
    *,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder, or an empty one.")],
    keys: Annotated[bool, typer.Option("--keys", help=KEYS_HELP)] = False,
    config: ConfigFile = "",
    json: AsJson = False,
) -> None:
    """Copy books, archive, log and configuration while everything runs.

    Every event that was acknowledged before the command began is in the copy. Secrets of ERP connections are not, and
    the keys only with --keys: without them payloads can't be read, and files that are sent again get other tokens.
    """
    with told():
        manifest = copies.backup(Installation(load(config)), folder, keys, _say(json))
    _answer(manifest, json, f"backed up into {folder}")


def restore(
    *,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a finished backup.")],
    config: ConfigFile = "",
    json: AsJson = False,
) -> None:
    """Make a Penstock from a backup, into an empty data folder, log and database; then start it with `penstock up`.

    It goes on where the copy was made: what was in the log is booked, and what may have been sent to the ERP since is
    looked up there before it is sent again. Entries that the ERP was sent under numbers that the copy does not know are
    found by `penstock verify`; they have to be reversed there.
    """
    with told():
        manifest = copies.restore(load(config), folder, _say(json))
    _answer(manifest, json, "restored; start it with: penstock up")


def _say(quiet: bool) -> copies.Say:
    return (lambda _ready: None) if quiet else (lambda ready: out.print(f"  ✓ {ready}"))


def _answer(manifest: copies.Manifest, json: bool, said: str) -> None:
    began = datetime.fromtimestamp(manifest.began_ms / 1000, UTC)
    size = sum(size for size, _ in manifest.files.values())
    seconds = (manifest.ended_ms - manifest.began_ms) / 1000
    if json:
        print_json({"began_at": began, "seconds": seconds, "files": len(manifest.files), "bytes": size})
        return
    out.print(f"{said}: as of {began:%Y-%m-%d %H:%M:%S} UTC, {len(manifest.files):,} files, {size:,} bytes")
