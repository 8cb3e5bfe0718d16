"""`penstock payload`: what is printed, what is written, and how the commands end."""

import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from actors.cli import payload
from adapters.settings import load, payload_key
from runtime.config import Config, parse
from runtime.errors import ConfigError, FrameError, PenstockError
from runtime.ports import PayloadRecord

MINIMAL = '[entities.mercy]\nname = "Mercy"\nopens_on = 2026-01-01\n'
RAW = b"NM1*QC*1*CANARY*JANE~\x00\xff" * 1000


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder to work in, with a configuration and a file."""
    monkeypatch.chdir(tmp_path)
    Path("penstock.toml").write_text(MINIMAL)
    Path("claims.835").write_bytes(RAW)


def kept() -> tuple[Config, PayloadRecord]:
    """The configuration, and the file kept under it."""
    config = load()
    return config, payload.keep_file(config, Path("claims.835"))


def run(*words: str, status: int = 0) -> bytes:
    """What a command writes."""
    done = CliRunner().invoke(payload.app, words)
    assert done.exit_code == status, done.output
    return done.stdout_bytes


def test_payload_get_writes_the_file_as_it_was() -> None:
    """`payload get` gives the same bytes, to a file and to standard output."""
    _, record = kept()
    assert run("get", record.payload_id) == RAW
    run("get", record.payload_id, "--out", "again.835")
    assert Path("again.835").read_bytes() == RAW


def test_payload_get_with_another_key_ends_with_a_sentence() -> None:
    """With a lost or wrong key nothing is written, and the error names where the key is configured."""
    _, record = kept()
    Path(".penstock/payload.key").write_text("ab" * 32)
    done = CliRunner().invoke(payload.app, ["get", record.payload_id])
    assert done.exit_code == 2 and done.stdout_bytes == b""
    assert "another key" in done.stderr and "CANARY" not in done.stderr


def test_payload_forget_deletes_it_and_list_still_names_it() -> None:
    """After `payload forget` the payload can't be had, and its evidence is listed with both acts and its total."""
    config, record = kept()
    payload.note_total(config, Path("claims.835"), record, {"format": "835", "rows": 7, "kinds": []})
    shown = json.loads(run("forget", record.payload_id, "--json"))
    assert shown["state"] == "forgotten" and [act["what"] for act in shown["acts"]] == ["kept", "forgotten"]
    run("get", record.payload_id, status=2)
    (listed,) = json.loads(run("list", "--json"))
    assert listed == shown and listed["control_total"]["rows"] == 7 and listed["size"] == len(RAW)
    assert b"forgotten" in run("list")


def test_payload_unknown_or_unreadable_is_an_error_of_ours() -> None:
    """An id that nobody has and a file that is not there are named, not thrown."""
    run("get", "0" * 32, status=2)
    run("forget", "nonsense", status=2)
    with pytest.raises(FrameError, match="No such file"):
        payload.keep_file(load(), Path("missing.835"))


def test_payload_of_a_file_that_changed_meanwhile_gets_no_total() -> None:
    """A file that is another one after it was sent is an error, and the evidence does not claim its total."""
    config, record = kept()
    Path("claims.835").write_bytes(RAW + b"more")
    with pytest.raises(PenstockError, match="changed"):
        payload.note_total(config, Path("claims.835"), record, {"rows": 7})
    assert json.loads(run("list", "--json"))[0]["control_total"] == {}


def configured(**payloads: str) -> Config:
    """A configuration that says where the key is."""
    entities = {"mercy": {"name": "Mercy", "opens_on": "2026-01-01"}}
    return parse({"entities": entities, "payloads": payloads})


def test_payload_key_is_made_once_where_none_is_configured() -> None:
    """Without a setting the key is made at first use, for its owner alone, and stays."""
    config, _ = kept()
    file = Path(".penstock/payload.key")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert payload_key(config) == bytes.fromhex(file.read_text()) and len(payload_key(config)) == 32


def test_payload_key_comes_from_the_named_file_or_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key is read where the configuration says, and from nowhere else."""
    Path("my.key").write_text("0a" * 32 + "\n")
    monkeypatch.setenv("MY_KEY", "0b" * 32)
    assert payload_key(configured(key_file="my.key")) == b"\x0a" * 32
    assert payload_key(configured(key_env="MY_KEY")) == b"\x0b" * 32
    with pytest.raises(ConfigError, match="not both"):
        configured(key_file="my.key", key_env="MY_KEY")


@pytest.mark.parametrize("text", ["", "0a" * 31, "0a" * 33, "not hexadecimal", "0a" * 31 + "0g"])
def test_payload_key_that_is_none_is_refused_without_telling_it(text: str) -> None:
    """A key of another length or form is refused with its place; what it is, is not repeated."""
    Path("my.key").write_text(text)
    with pytest.raises(ConfigError, match="64 hexadecimal digits") as refused:
        payload_key(configured(key_file="my.key"))
    assert not text or text not in str(refused.value)


def test_payload_key_that_is_not_there_names_the_remedy() -> None:
    """A configured key that is missing is never made: that would be another one."""
    with pytest.raises(ConfigError, match="openssl rand -hex 32"):
        payload_key(configured(key_file="missing.key"))
    with pytest.raises(ConfigError, match="NO_SUCH_KEY is not set"):
        payload_key(configured(key_env="NO_SUCH_KEY"))
    assert not Path("missing.key").exists()
