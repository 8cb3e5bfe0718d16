"""What runs from a data folder, by its record: what is told of it when its Ray has died."""

import errno
import fcntl
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from actors.cli.installation import Installation, NotRunning
from actors.cli.local_ray import ray_is_up
from actors.cli.run_record import RunRecord
from adapters import embedded
from adapters.books.sql import SqlBooks
from adapters.embedded import EmbeddedPart
from runtime.config import parse
from runtime.errors import ConfigError

ENDED = EmbeddedPart("ray", 2**22 + 1, 1.0, "127.0.0.1:1")  # a pid that no process has


def test_stage_of_a_ray_that_died_is_not_waited_for(tmp_path: Path):
    """Ray itself would look for the one that is gone for minutes; the error says what to do."""
    entity = {"name": "Mercy", "opens_on": "2026-07-01"}
    config = parse({"runtime": {"data_dir": str(tmp_path)}, "entities": {"mercy": entity}})
    record = RunRecord(host="here", ray=ENDED, ray_address="127.0.0.1:1")
    (tmp_path / "run.json").write_bytes(msgspec.json.encode(record))
    with pytest.raises(NotRunning, match="penstock up"), Installation(config).stage():
        pytest.fail("there is no Ray to talk to")


def test_ray_that_was_joined_without_an_address_is_taken_to_be_there():
    """Ray finds that one by itself, so that `penstock down` ends the actors on it."""
    assert ray_is_up(RunRecord(host="here", ray_address="auto"))
    assert not ray_is_up(RunRecord(host="here", ray=ENDED, ray_address="auto"))


class LockedOut(Installation):
    """An installation whose Ray takes no connection, for want of a token."""

    def stage(self, record: RunRecord | None = None):
        """Refuse."""
        raise NotRunning("Ray takes no connection")


def test_down_that_is_not_let_into_a_joined_ray_forgets_nothing(tmp_path: Path):
    """The actors run on: whoever comes with the token must find what to end."""
    entity = {"name": "Mercy", "opens_on": "2026-07-01"}
    config = parse({"runtime": {"data_dir": str(tmp_path)}, "entities": {"mercy": entity}})
    record = RunRecord(host="here", ray_address="auto", wiring={"log_url": "redis://log"})
    (tmp_path / "run.json").write_bytes(msgspec.json.encode(record))
    with pytest.raises(NotRunning, match="takes no connection"):
        LockedOut(config).down()
    assert Installation(config).record() == record


class OnAFullDisk(Installation):
    """An installation that has started a server when the disk is full."""

    def _start_parts(self, record: RunRecord, say: Callable[[str], None]) -> None:
        record.parts.append(ENDED)
        self._write(record)

    def _write(self, record: RunRecord) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_start_that_could_not_be_recorded_ends_what_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nothing names it but the command itself."""
    stopped: list[EmbeddedPart] = []
    monkeypatch.setattr(embedded, "stop", stopped.append)
    entity = {"name": "Mercy", "opens_on": "2026-07-01"}
    config = parse({"runtime": {"data_dir": str(tmp_path)}, "erp": {"kind": "none"}, "entities": {"mercy": entity}})
    with pytest.raises(OSError, match="No space left"):
        OnAFullDisk(config).up(pytest.fail)
    assert stopped == [ENDED]


@pytest.mark.parametrize("content", [b"", b'{"host":"x","par'])
def test_record_that_was_cut_off_is_named_with_the_remedy(tmp_path: Path, content: bytes):
    """As after a crash of the machine: no command can know what ran."""
    (tmp_path / "run.json").write_bytes(content)
    entity = {"name": "Mercy", "opens_on": "2026-07-01"}
    config = parse({"runtime": {"data_dir": str(tmp_path)}, "erp": {"kind": "none"}, "entities": {"mercy": entity}})
    for command in (Installation(config).down, lambda: Installation(config).up(pytest.fail)):
        with pytest.raises(ConfigError, match=r"runtime\.data_dir: run\.json in .* remove that file"):
            command()


def test_second_command_that_starts_or_stops_is_refused_while_one_is_at_work(tmp_path: Path):
    """It would end what the first has started so far, and both would go on with half a Penstock each."""
    entity = {"name": "Mercy", "opens_on": "2026-07-01"}
    config = parse({"runtime": {"data_dir": str(tmp_path)}, "erp": {"kind": "none"}, "entities": {"mercy": entity}})
    record = RunRecord(host="here")
    (tmp_path / "run.json").write_bytes(msgspec.json.encode(record))
    with (tmp_path / "command.lock").open("ab") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        for command in (lambda: Installation(config).up(pytest.fail), Installation(config).down):
            with pytest.raises(ConfigError, match="another penstock up or down is at work"):
                command()
    assert Installation(config).record() == record


def test_data_folder_that_can_not_be_made_is_named_by_its_key(tmp_path: Path):
    """Where a file stands in its place, the error says which setting to change."""
    (tmp_path / "taken").write_text("")
    entity = {"name": "Mercy", "opens_on": "2026-07-01"}
    runtime = {"data_dir": str(tmp_path / "taken")}
    config = parse({"runtime": runtime, "erp": {"kind": "none"}, "entities": {"mercy": entity}})
    with pytest.raises(ConfigError, match=r"runtime\.data_dir: .*taken"):
        Installation(config).up(print)


def test_archive_folder_that_can_not_be_made_is_named_by_its_key(tmp_path: Path):
    """Workers would find out at their first checkpoint, long after all seemed to run."""
    (tmp_path / "taken").write_text("")
    given = {"runtime": {"data_dir": str(tmp_path / "data")}, "archive": {"root": str(tmp_path / "taken")}}
    config = parse(
        given | {"erp": {"kind": "none"}, "entities": {"mercy": {"name": "Mercy", "opens_on": "2026-07-01"}}}
    )
    with pytest.raises(ConfigError, match=r"archive\.root: .*taken"):
        Installation(config).up(pytest.fail)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "nonsense",
        "mysql://user:secret@host/books",
        "postgresql+nothing://host/books",
    ],
)
def test_books_url_that_is_no_database_is_named_by_its_key(url: str):
    """The error names the setting, and nothing of the address, which may hold a password."""
    with pytest.raises(ConfigError, match=r"books\.url") as refused:
        SqlBooks(url)
    assert "secret" not in str(refused.value)


def test_mapping_row_that_no_rule_asks_for_is_refused_before_anything_starts(tmp_path: Path):
    """A misspelt role would be taken, and its events held for want of it."""
    rows = [{"role": "CASH", "account": "1010"}, {"role": "CAHS", "account": "1020"}]
    given = {"runtime": {"data_dir": str(tmp_path / "new")}, "erp": {"kind": "none"}, "mapping": rows}
    config = parse(given | {"entities": {"mercy": {"name": "Mercy", "opens_on": "2026-07-01"}}})
    with pytest.raises(ConfigError, match=r"mapping.*row 2: role: 'CAHS'"):
        Installation(config).up(pytest.fail)
    assert not (tmp_path / "new").exists()
