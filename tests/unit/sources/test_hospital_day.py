"""The demonstration's day of files: the engine makes of each what was worked out by hand beside it."""

from collections import Counter

import polars as pl
import pytest

from adapters.settings import DEMO_FILE, load, load_rulebook_text
from adapters.sources import open_source
from adapters.sources.hospital_day import FOLDER, DayFile, HospitalDay, hospital_day
from runtime.flow import frames
from runtime.ledger.rule_file import parse_rulebook
from runtime.ports import LogRecord
from runtime.schema import Vocabulary, conform
from runtime.shard import ShardEngine
from runtime.validation import validate

NOW_MS = 1_792_000_000_000  # 2026-10-14, 17:46:40 UTC
OPEN_ITEMS_MAX = 1_000


class Books:
    """One engine under the demonstration's configuration; what it posted, and which exceptions stand."""

    def __init__(self) -> None:
        config = load(str(DEMO_FILE))
        rulebook = parse_rulebook(load_rulebook_text(config))
        opens_on = config.opens_on()
        self._engine = ShardEngine(rulebook, opens_on, OPEN_ITEMS_MAX)
        self._vocabulary = Vocabulary(kinds=rulebook.kind_terms(derived=True), entities=config.entity_terms())
        self._steps = 0
        self.open: dict[str, str] = {}
        self.debits: Counter[tuple[str, str]] = Counter()
        rows = [row.model_dump(mode="json") for row in config.mapping]
        self._step("control", 0, frames.encode_control({"type": "mapping", "version": 1, "rows": rows}))

    def submit(self, file: DayFile) -> Counter[tuple[str, str]]:
        """Take a whole file, and what follows from it; its debits by entity and role."""
        self.debits = Counter()
        source = open_source(file.path, entity=file.entity, currency="USD", token_key=b"a test's own token key")
        for frame in source.frames():
            self._take(frame)
        assert not source.quarantined and not source.faults
        return self.debits

    def _take(self, frame: pl.DataFrame) -> None:
        checked = validate(conform(frame), self._vocabulary, NOW_MS)
        assert checked.rejected.is_empty(), checked.rejected
        derived = self._step("events", checked.accepted.height, frames.encode(checked.accepted.drop("row")))
        if derived.height:
            self._take(derived)

    def _step(self, type: str, rows: int, body: bytes) -> pl.DataFrame:
        self._steps += 1
        effects = self._engine.step([LogRecord(f"{self._steps}-0", type, rows, body)])
        self.open |= dict(effects.exceptions.select("exception_id", "type").iter_rows())
        for ended in effects.resolved:
            self.open.pop(ended)
        debits = effects.deltas.filter(side="D").group_by("entity", "role").agg(pl.col("amount_minor").sum())
        self.debits.update({(entity, role): minor for entity, role, minor in debits.iter_rows()})
        return effects.derived


@pytest.fixture(scope="module")
def day() -> HospitalDay:
    """The day as it was worked out."""
    return hospital_day()


def test_day_names_every_file_of_its_folder_in_order(day: HospitalDay) -> None:
    """Nothing lies in the folder of which it is not said what it must book."""
    lying = sorted(path.name for path in FOLDER.iterdir() if path.name != "expected.toml")
    assert [file.name for file in day.file] == lying


def test_day_files_book_what_was_worked_out_by_hand(day: HospitalDay) -> None:
    """File by file, entity by entity and role by role, the debits are those that were written down, to the cent."""
    books = Books()
    for file in day.file:
        by_hand = Counter({(booking.entity, booking.debit): booking.amount_minor for booking in file.books})
        assert books.submit(file) == by_hand, file.name


def test_day_files_raise_the_exceptions_that_were_worked_out(day: HospitalDay) -> None:
    """Before the late receipt all of them stand, after it those that last."""
    books = Books()
    for file in day.file[:-1]:
        books.submit(file)
    assert Counter(books.open.values()) == {one.type: one.count for one in day.exception}
    books.submit(day.file[-1])
    assert Counter(books.open.values()) == {one.type: one.count for one in day.exception if one.lasts}


def test_day_files_sent_again_change_nothing(day: HospitalDay) -> None:
    """Every event of every file is known the second time: nothing is posted, nothing raised."""
    books = Books()
    for file in day.file:
        books.submit(file)
    stood = dict(books.open)
    for file in day.file:
        assert not books.submit(file), file.name
    assert books.open == stood


def test_day_of_a_file_sums_its_bookings_by_entity(day: HospitalDay) -> None:
    """A file's turnover is the sum of its debits, entity by entity."""
    shared = next(file for file in day.file if file.name == "7-day.jsonl")
    assert day.turnover(shared) == {("mercy", "USD"): 877_810, ("lakeside", "USD"): 80_000}
