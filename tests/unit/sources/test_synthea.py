"""Synthea's patient ledger as events: exact sums, who owes at each moment, tokens for people, places for faults."""

import csv
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import polars as pl
import pytest

from adapters.sources import Source, open_source
from adapters.sources.synthea import Responsibility
from runtime.errors import ConfigError, FrameError
from runtime.schema import COLUMNS

SMALL = Path(__file__).parents[3] / "adapters" / "sources" / "samples" / "claims_transactions.csv"
KEY = b"a key for the tests"
AR_SIDES = {
    "charge_posted": 1,
    "responsibility_transferred_in": 1,
    "responsibility_transferred_out": -1,
    "payment_received": -1,
}


def opened(path: Path, **settings: object) -> Source:
    return open_source(path, token_key=KEY, **settings)


def events_of(source: Source) -> pl.DataFrame:
    return pl.concat(source.frames())


def receivables_minor(events: pl.DataFrame) -> dict[str, int]:
    """A ledger kept by hand: what insurers and patients owe after all events."""
    owed = Counter({"AR_INS": 0, "AR_SELF": 0})
    for kind, counterparty, amount in events.select("kind", "counterparty", "amount_minor").iter_rows():
        owed["AR_INS" if counterparty else "AR_SELF"] += AR_SIDES[kind] * amount
    return dict(owed)


def changed(tmp_path: Path, changes: Iterable[tuple[int, str, str]]) -> Path:
    """The small file with some cells changed, by line number and column."""
    with SMALL.open(newline="") as file:
        rows = list(csv.reader(file))
    for line, column, value in changes:
        rows[line - 1][rows[0].index(column)] = value
    path = tmp_path / "changed.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_synthea_small_file_gives_exact_control_total() -> None:
    """The control total holds every row, and each kind's sum to the cent."""
    source = opened(SMALL)
    events = events_of(source)
    total = source.total()
    assert (total.rows, total.events, total.rejected, events.height) == (40, 40, 0, 40)
    assert total.by_kind() == {
        "charge_posted": (12, 147_854, 147_854),
        "payment_received": (16, 115_600, 115_600),
        "responsibility_transferred_out": (6, 31_160, 31_160),
        "responsibility_transferred_in": (6, 31_160, 31_160),
    }


def test_synthea_small_file_leaves_receivables_where_they_belong() -> None:
    """Insurers end with the unpaid charge less one overpaid claim, patients with what one of them still owes."""
    assert receivables_minor(events_of(opened(SMALL))) == {"AR_INS": 30_754, "AR_SELF": 1_500}


def test_synthea_frames_are_canonical_whatever_their_size() -> None:
    """Frames hold the canonical columns and at most rows_max rows, and cutting them smaller changes no event."""
    whole = events_of(opened(SMALL))
    frames = list(opened(SMALL, rows_max=3).frames())
    assert whole.schema == pl.Schema(COLUMNS)
    assert [frame.height for frame in frames] == [3] * 13 + [1]
    assert pl.concat(frames).equals(whole)


def test_synthea_row_becomes_event_with_its_own_date() -> None:
    """A payment of 1974 keeps its date; its method is the reason, and a TODATE that only means none is no fault."""
    (event,) = (
        events_of(opened(SMALL)).filter(pl.col("effective_on").dt.year() == 1974, kind="payment_received").to_dicts()
    )
    assert event["occurred_at"].isoformat() == "1974-06-11T07:30:12+00:00"
    assert event["effective_on"].isoformat() == "1974-06-11"
    assert (event["reason"], event["department"], event["amount_minor"]) == ("CHECK", "5", 1_250)
    assert (event["source"], event["entity"], event["currency"]) == ("synthea", "synthea", "USD")


def test_synthea_units_are_thousandths() -> None:
    """Three units are a quantity of 3000."""
    assert 3_000 in events_of(opened(SMALL))["quantity"].to_list()


def test_synthea_people_leave_as_keyed_tokens() -> None:
    """No patient, claim or member id is in any event, and another key gives other tokens for as many accounts."""
    events = events_of(opened(SMALL))
    other = events_of(open_source(SMALL, token_key=b"another key, as long"))
    with SMALL.open(newline="") as file:
        secrets = {row[name] for row in csv.DictReader(file) for name in ("PATIENTID", "CLAIMID", "PATIENTINSURANCEID")}
    held = {str(value) for row in events.iter_rows() for value in row}
    assert not secrets & held
    assert events["account"].str.contains(r"^[0-9a-f]{16}$").all()
    assert events["account"].n_unique() == other["account"].n_unique() == 5
    assert not set(events["account"]) & set(other["account"])


def test_synthea_without_token_key_is_refused() -> None:
    """Without a key nothing is read, as unkeyed tokens could be guessed."""
    with pytest.raises(ConfigError, match="token_key"):
        list(open_source(SMALL).frames())


@pytest.mark.parametrize(
    ("line", "column", "value", "code"),
    [
        (2, "AMOUNT", "120.001", "wrong_type"),
        (2, "AMOUNT", "1.2e2", "wrong_type"),
        (2, "AMOUNT", "", "wrong_type"),
        (3, "PAYMENTS", "twenty", "wrong_type"),
        (5, "TRANSFERS", "30,00", "wrong_type"),
        (36, "TRANSFERTYPE", "9", "unknown_payer"),
        (41, "TYPE", "REFUND", "unknown_kind"),
        (2, "FROMDATE", "2025-13-04T09:10:00Z", "wrong_type"),
        (2, "UNITS", "1.0005", "wrong_type"),
        (2, "ID", "", "missing_value"),
        (3, "CLAIMID", "unheard-of", "unknown_charge"),
    ],
)
def test_synthea_wrong_cell_rejects_its_row(tmp_path: Path, line: int, column: str, value: str, code: str) -> None:
    """A wrong cell is a fault with line, column and code but not its value; all other rows go on."""
    source = opened(changed(tmp_path, [(line, column, value)]), rows_max=7)
    events = events_of(source)
    (fault,) = source.faults
    assert (fault.line, fault.column, fault.code) == (line, column, code)
    assert not value or value not in fault.message
    assert (events.height, source.total().rejected, source.total().rows) == (39, 1, 40)


def test_synthea_unreadable_transfer_holds_back_what_follows_it(tmp_path: Path) -> None:
    """When a transfer does not tell to whom, the payment after it is refused too: it would fall on the wrong side."""
    source = opened(changed(tmp_path, [(6, "TRANSFERTYPE", "9")]), rows_max=5)
    assert events_of(source).height == 38
    assert [(fault.line, fault.code) for fault in source.faults] == [(6, "unknown_payer"), (7, "unknown_charge")]


def test_synthea_broken_lines_are_skipped_alone(tmp_path: Path) -> None:
    """A short row, a stray quote and bytes that are no UTF-8 are three faults with their own lines."""
    lines = SMALL.read_bytes().splitlines(keepends=True)
    lines[34] = b"only,three,columns\n"
    lines[35] = b'"quoted"badly,' + lines[35]
    lines[40] = lines[40].replace(b"0000", b"\xff\xfe", 1)
    path = tmp_path / "broken.csv"
    path.write_bytes(b"".join(lines))
    source = opened(path)
    assert events_of(source).height == 37
    assert [(fault.line, fault.code) for fault in source.faults] == [
        (35, "malformed"),
        (36, "malformed"),
        (41, "malformed"),
    ]


def test_synthea_without_needed_column_is_refused(tmp_path: Path) -> None:
    """A file without the payments column is no such ledger; the error names the column."""
    path = tmp_path / "short.csv"
    path.write_text(SMALL.read_text().replace("PAYMENTS", "PAID", 1))
    with pytest.raises(FrameError, match="missing_column: PAYMENTS"):
        list(opened(path).frames())


def test_responsibility_beyond_its_limit_forgets_oldest_line() -> None:
    """Memory is bounded: of three lines with room for two, the first is no longer known."""
    responsibility = Responsibility(lines_max=2)

    def assigned(kind: str, claims: list[str]) -> list[str | None]:
        rows = {
            "TYPE": kind,
            "CLAIMID": claims,
            "PROCEDURECODE": "1",
            "TRANSFERTYPE": "1" if kind == "CHARGE" else None,
        }
        return responsibility.assign(pl.DataFrame(rows, schema_overrides={"TRANSFERTYPE": pl.String()}))[
            "payer"
        ].to_list()

    assert assigned("CHARGE", ["a", "b", "c"]) == ["insurer"] * 3
    assert assigned("PAYMENT", ["a", "b", "c"]) == [None, "insurer", "insurer"]


def test_synthea_published_file_has_its_known_sums(shared_data) -> None:
    """The published sample gives the counts and sums that are known of it, and nothing is rejected."""
    source = opened(shared_data("synthea/claims_transactions.csv"), rows_max=500)
    events = events_of(source)
    assert source.total().by_kind() == {
        "charge_posted": (1_545, 109_240_273, 109_240_273),
        "payment_received": (1_843, 110_350_395, 110_350_395),
        "responsibility_transferred_out": (920, 55_712_552, 55_712_552),
        "responsibility_transferred_in": (920, 55_712_552, 55_712_552),
    }
    assert source.faults == [] and events["event_id"].n_unique() == 5_228


def test_synthea_published_file_ends_with_credits_at_insurers_only(shared_data) -> None:
    """190 claims end overpaid, all of them at insurers; every patient's balance comes to zero."""
    events = events_of(opened(shared_data("synthea/claims_transactions.csv"), rows_max=500))
    assert receivables_minor(events) == {"AR_INS": -1_110_122, "AR_SELF": 0}
    owed = Counter()
    for document, kind, amount in events.select("document", "kind", "amount_minor").iter_rows():
        owed[document] += AR_SIDES[kind] * amount
    assert Counter((minor > 0) - (minor < 0) for minor in owed.values()) == {0: 1_077, -1: 190}
