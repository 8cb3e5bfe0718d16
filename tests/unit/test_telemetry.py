"""What a log line may say, and where it goes."""

import json
import logging

import pytest
import structlog

from adapters import telemetry

SECRET = "Muster, Erika 1962-04-13"


@pytest.fixture
def lines(tmp_path):
    """Configure logs into a folder; returns a function that reads the lines back."""
    telemetry.configure("worker-0", tmp_path, "info")
    yield lambda: [json.loads(line) for line in (tmp_path / "worker-0.jsonl").read_text().splitlines()]
    telemetry._replace_handlers([], logging.Formatter())
    structlog.reset_defaults()


def test_telemetry_allowed_keys_leave_with_level_time_and_component(lines):
    """A line holds its event, the allowed keys, its level, a UTC time and the component."""
    structlog.get_logger("shard_worker").info("step_committed", shard=3, rows=1200, position="17-0")
    (line,) = lines()
    assert line["timestamp"].endswith("Z")
    assert {key: line[key] for key in ("event", "level", "logger", "component", "shard", "rows", "position")} == {
        "event": "step_committed",
        "level": "info",
        "logger": "penstock.shard_worker",
        "component": "worker-0",
        "shard": 3,
        "rows": 1200,
        "position": "17-0",
    }


def test_telemetry_other_keys_lose_their_value(lines):
    """A key that is not on the allow list keeps its name, so the slip is seen, and loses its value."""
    structlog.get_logger().bind(account=SECRET).warning("odd row", patient=SECRET, amount_minor=12345)
    (line,) = lines()
    assert line["patient"] == line["account"] == line["amount_minor"] == "[withheld]"


@pytest.mark.parametrize("value", [{"name": SECRET}, [{"name": SECRET}], SECRET.encode(), [[SECRET]]])
def test_telemetry_allowed_key_with_nested_value_is_withheld(lines, value):
    """Even an allowed key passes only plain values: a whole row handed in under it stays inside."""
    structlog.get_logger().info("odd row", reason=value)
    assert lines()[0]["reason"] == "[withheld]"


def test_telemetry_long_text_is_cut(lines):
    """An allowed text is cut at the limit, so no document leaves under a short key."""
    structlog.get_logger().info("odd row", reason="x" * 5000)
    assert len(lines()[0]["reason"]) == telemetry.TEXT_CHARS_MAX


def test_telemetry_exception_is_type_and_places_without_message(lines):
    """An error is logged by its type, its causes and where it passed; its message stays inside."""
    try:
        try:
            raise KeyError(SECRET)
        except KeyError as cause:
            raise ValueError(f"no account for {SECRET}") from cause
    except ValueError:
        structlog.get_logger().exception("step failed", shard=1)
    (line,) = lines()
    assert line["error_type"] == "ValueError"
    assert line["causes"] == ["KeyError"]
    assert line["traceback"][-1].startswith("unit/test_telemetry.py:")


def test_telemetry_positional_arguments_are_withheld(lines):
    """A value passed for %-formatting is never put into the text."""
    structlog.get_logger().info("account %s", SECRET)
    assert lines()[0]["event"] == "account %s"


def test_telemetry_other_libraries_are_named_but_not_quoted(lines):
    """A library's own record shows where it came from, never its text, arguments or error message."""
    try:
        raise RuntimeError(SECRET)
    except RuntimeError:
        logging.getLogger("sqlalchemy.engine").warning("parameters %s", SECRET, exc_info=True)
    (line,) = lines()
    assert (line["event"], line["logger"], line["error_type"]) == ("library log", "sqlalchemy.engine", "RuntimeError")


@pytest.fixture(autouse=True)
def _secret_never_leaves(tmp_path):
    """Whatever a test here logs, no file under its folder holds the secret afterwards."""
    yield
    for path in tmp_path.iterdir():
        assert "Muster" not in path.read_text()


def test_telemetry_below_level_writes_nothing(lines, tmp_path):
    """The level holds for Penstock's own lines."""
    structlog.get_logger().debug("detail")
    assert not (tmp_path / "worker-0.jsonl").exists()


def test_telemetry_files_are_bounded(tmp_path, monkeypatch, lines):
    """Rotation keeps a fixed number of files of a fixed size, the newest lines among them."""
    monkeypatch.setattr(telemetry, "FILE_BYTES_MAX", 2_000)
    telemetry.configure("worker-0", tmp_path)
    for count in range(200):
        structlog.get_logger().info("step_committed", count=count)
    files = list(tmp_path.iterdir())
    assert len(files) == telemetry.FILES_KEPT + 1
    assert all(path.stat().st_size <= 2_000 for path in files)
    assert lines()[-1]["count"] == 199


def test_telemetry_without_folder_writes_to_stderr(capsys, lines):
    """With nowhere else to go, lines go to stderr, and a second configuration replaces the first."""
    telemetry.configure("cli")
    structlog.get_logger().info("started", pid=7)
    assert json.loads(capsys.readouterr().err)["component"] == "cli"
