"""`penstock payload`: raw files that were kept as they came, encrypted.

Owns the commands, and keeping a file while it is sent. Events carry no reference to their file: an event is the same
event in whatever file it comes, and one that named its file would be a conflict when it comes in another one. The way
back is the evidence: format, control total, time.
"""

import getpass
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from actors.cli.terminal import AsJson, ConfigFile, load, out, print_json, print_table, told
from actors.wiring import archive_root
from adapters import settings
from adapters.clock import WallClock
from adapters.payloads.files import FilePayloadStore
from runtime.config import Config
from runtime.errors import FrameError, PenstockError
from runtime.ports import PayloadRecord, PayloadStore

READ_BYTES = 2**20

app = typer.Typer(help="Raw files that were kept as they came, encrypted.", no_args_is_help=True)
PayloadId = Annotated[str, typer.Argument(help="The payload's id, as `penstock submit` told it.")]


def open_store(config: Config) -> PayloadStore:
    """The store of this configuration. The key is read, or made, only when something is kept or given."""
    return FilePayloadStore(archive_root(config), lambda: settings.payload_key(config))


def keep_file(config: Config, file: Path) -> PayloadRecord:
    """Keep a file's bytes; its evidence. FrameError for a file that can't be read."""
    return open_store(config).keep(_bytes_of(file), WallClock().now_ms(), _who())


def note_total(config: Config, file: Path, kept: PayloadRecord, total: dict) -> None:
    """Put a file's control total beside the evidence of its payload. PenstockError when it is another file by now."""
    digest = hashlib.blake2b(digest_size=len(kept.digest) // 2)
    for chunk in _bytes_of(file):
        digest.update(chunk)
    if digest.hexdigest() != kept.digest:
        raise PenstockError("the file was changed while it was sent; send it again")
    open_store(config).note_total(kept.payload_id, msgspec.json.encode(total).decode())


def _bytes_of(file: Path) -> Iterator[bytes]:
    try:
        with file.open("rb") as opened:
            while chunk := opened.read(READ_BYTES):
                yield chunk
    except OSError as error:
        raise FrameError("unreadable_file", "", f"{file}: {error.strerror}") from None


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return "unknown"


@app.command("list")
def list_(config: ConfigFile = "", json: AsJson = False) -> None:
    """List what was ever kept, with what was done when and by whom."""
    with told():
        found = [_shown(record) for record in open_store(load(config)).records()]
    if json:
        print_json(found)
    else:
        print_table("payloads", found, ["payload_id", "state", "size", "format", "rows", "last_act"])


def _shown(record: PayloadRecord) -> dict:
    total = msgspec.json.decode(record.control_total or "{}")
    last = record.acts[-1]
    state = {"state": last.what, "format": total.get("format", ""), "rows": total.get("rows")}
    return msgspec.to_builtins(record) | {"control_total": total} | state | {"last_act": f"{last.what} by {last.by}"}


@app.command()
def get(
    *,
    payload_id: PayloadId,
    into: Annotated[typer.FileBinaryWrite, typer.Option("--out", metavar="FILE", help="Where to; - is stdout.")] = "-",
    config: ConfigFile = "",
) -> None:
    """Write a payload as it came. Every part is proven before it is written; damage ends the command with 2."""
    with told():
        for chunk in open_store(load(config)).chunks(payload_id):
            into.write(chunk)
        into.flush()


@app.command()
def forget(payload_id: PayloadId, config: ConfigFile = "", json: AsJson = False) -> None:
    """Delete a payload for good. Its evidence stays: id, digest, size, control total, and who did what when."""
    with told():
        record = open_store(load(config)).forget(payload_id, WallClock().now_ms(), _who())
    if json:
        print_json(_shown(record))
    else:
        out.print(f"payload {record.payload_id} is deleted; its evidence stays")
