"""A program that starts an installation's dead embedded servers again: `python -m actors.cli.mending FOLDER`.

Owns nothing. A process of its own, as servers that an actor started itself would end with that actor.
"""

import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from actors.cli.installation import Installation, NotRunning
from actors.cli.run_record import RunRecord
from actors.wiring import wiring_from


def mend(folder: Path) -> None:
    """Start again what has died. What was stopped meanwhile stays so."""
    with suppress(NotRunning, FileNotFoundError):
        record = msgspec.json.decode((folder / "run.json").read_bytes(), type=RunRecord)
        if record.wiring:
            config = wiring_from(record.wiring).config
            here = config.runtime.model_copy(update={"data_dir": str(folder)})
            Installation(config.model_copy(update={"runtime": here})).start_dead_parts()


if __name__ == "__main__":
    mend(Path(sys.argv[1]))
