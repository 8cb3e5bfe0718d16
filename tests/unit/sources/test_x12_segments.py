"""X12 tokens and envelopes: whatever separators, line ends and headers a file has, the same sets come out of it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from unit.sources.x12_texts import SETTINGS, claim, found, interchange, read, remittance, transaction, write

from adapters.sources import x12
from adapters.sources.source import Source
from adapters.sources.x12 import segments
from adapters.sources.x12.findings import ARITHMETIC_CODES, CODES, ENVELOPE_CODES, STRUCTURE_CODES
from adapters.sources.x12.values import clock_ms, day, minor_units
from runtime.errors import FrameError

FIRST = remittance("60", *claim("A1", "1", "100*60*40", "PR*1*40"))
SECOND = remittance("5", "PLB*1*20241231*L6:R1*-5", trace="T2")
PLAIN = interchange(FIRST, SECOND)
QUIRKS: dict[str, Callable[[str], str | bytes]] = {
    "byte order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "text before the header": lambda text: "For the provider\x92s account. ST. 835. ISA\r\n\r\n" + text,
    "bytes beyond UTF-8": lambda text: text.replace("HEALTH PLAN", "H\xe9ALTH").encode("latin-1"),
    "a line a segment": lambda text: text.replace("~", "~\r\n"),
    "blank and indented lines": lambda text: text.replace("~", "~\n\n    \t "),
    "wrapped at 80 columns": lambda text: "\n".join(text[i : i + 80] for i in range(0, len(text), 80)),
    "newline as terminator": lambda text: text.replace("~", "\n"),
    "both line ends as terminator": lambda text: text.replace("~", "\r\n"),
    "other separators": lambda text: text.translate(str.maketrans("*:~", "|>'")),
    "control bytes as separators": lambda text: text.translate(str.maketrans("*:~", "\x1d\x1f\x1c")),
    "trailing separators": lambda text: text.replace("CAS*PR*1*40~", "CAS*PR*1*40****~"),
    "zero as quantity": lambda text: text.replace("CAS*PR*1*40~", "CAS*PR*1*40*0~"),
    "empty lines at the end": lambda text: text + "\r\n" * 9 + " " * 2000,
    "group code of claims": lambda text: text.replace("GS*HP*", "GS*HC*"),
    "unknown segments": lambda text: text.replace("N1*PR*HEALTH PLAN~", "LXXXX*1~"),
}
SAME = ["event_id", "kind", "amount_minor", "reason", "document", "reference", "effective_on"]


@pytest.mark.parametrize("quirk", QUIRKS)
def test_segments_file_with_quirk_gives_the_same_events(quirk: str, tmp_path: Path) -> None:
    """A quirk of tokens costs nothing: the events are those of the plain file, and nothing is set aside."""
    expected, _ = read(write(tmp_path, PLAIN))
    events, source = read(write(tmp_path, QUIRKS[quirk](PLAIN)))
    assert not source.quarantined
    assert events.select(SAME).equals(expected.select(SAME))


ENVELOPES: dict[str, tuple[Callable[[str], str], list[tuple[int, int, int, str]]]] = {
    "trimmed header": (lambda text: text.replace("          ", ""), [(0, 1, 0, "isa_length")]),
    "header without its last element": (lambda text: text.replace("*P*:~", "*P~"), [(0, 1, 0, "isa_length")]),
    "no interchange": (lambda text: text[text.index("GS*") :], [(0, 1, 0, "missing_isa")]),
    "no group": (lambda text: text[text.index("ST*") :], [(0, 1, 0, "missing_isa"), (0, 1, 0, "missing_gs")]),
    "set count": (lambda text: text.replace("GE*2*", "GE*3*"), [(0, 22, 1, "wrong_set_count")]),
    "group number": (lambda text: text.replace("GE*2*1~", "GE*2*9~"), [(0, 22, 2, "wrong_group_number")]),
    "group count": (lambda text: text.replace("IEA*1*", "IEA*2*"), [(0, 23, 1, "wrong_group_count")]),
    "interchange number": (
        lambda text: text.replace("IEA*1*000000001", "IEA*1*000000002"),
        [(0, 23, 2, "wrong_interchange_number")],
    ),
    "no group end": (lambda text: text.replace("GE*2*1~", ""), [(0, 22, 0, "missing_ge")]),
    "no interchange end": (lambda text: text.replace("IEA*1*000000001~", ""), [(0, 23, 0, "missing_iea")]),
    "text after the end": (lambda text: text + "the end~", [(0, 24, 0, "stray_segment")]),
}


@pytest.mark.parametrize("case", ENVELOPES)
def test_envelope_with_fault_is_reported_and_holds_nothing_back(case: str, tmp_path: Path) -> None:
    """What is wrong with the envelope is found as transaction 0; the sets, which count themselves, are accepted."""
    change, expected = ENVELOPES[case]
    plain, _ = read(write(tmp_path, PLAIN))
    events, source = read(write(tmp_path, change(PLAIN)))
    assert [place for place in found(source) if place[0] == 0][: len(expected)] == expected
    assert events.equals(plain)
    assert source.total().figures["envelope_findings"] >= 1
    assert source.total().figures["structurally_wrong"] == 0


def test_segments_each_interchange_has_separators_of_its_own(tmp_path: Path) -> None:
    """Interchanges with other separators may follow each other in one file, in any block size."""
    third = remittance("0", *claim("C3", "4", "10*0*0", "CO*29*10"), trace="T3")
    text = interchange(FIRST) + "\r\n" + interchange(SECOND, number=2, separators="|>\n") + interchange(third, number=3)
    events, source = read(write(tmp_path, text))
    assert not source.quarantined
    expected, _ = read(write(tmp_path, interchange(FIRST, SECOND, third)))
    assert events.equals(expected)


@pytest.mark.parametrize("block_bytes", [1, 7, 113, 4096])
def test_segments_blocks_of_any_size_give_the_same_events(
    block_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a block ends changes nothing, be it within a segment, a header or between two interchanges."""
    path = write(tmp_path, PLAIN + interchange(SECOND, number=2, separators="|>\n") + PLAIN)
    expected, _ = read(path)
    with path.open("rb") as file:
        whole = [segment for block in segments.blocks(file) for segment in block.segments]
        monkeypatch.setattr(segments, "BLOCK_BYTES", block_bytes)
        found_header = block_bytes >= len("ISA*00*")
        if not found_header:
            with pytest.raises(FrameError, match="no X12 header"):
                list(segments.blocks(file))
            return
        assert [segment for block in segments.blocks(file) for segment in block.segments] == whole
    events, _ = read(path)
    assert events.equals(expected)


def test_segments_many_empty_interchanges_are_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Separators are sought within an interchange, not in all that follow it: headers alone can't stop a reading."""
    looked: list[int] = []
    detect = segments.detect
    monkeypatch.setattr(segments, "detect", lambda raw: looked.append(len(raw)) or detect(raw))
    path = write(tmp_path, PLAIN + "ISA*00*  *00*~" * 2_000)
    with path.open("rb") as file:
        assert sum(len(block.segments) for block in segments.blocks(file)) > 2_000
    assert sum(looked) <= 2 * path.stat().st_size


@pytest.mark.parametrize("text", ["ISA*00", "ST*835*0001 and nothing that ends it", "GS*HP*A*B*1*2*3*X*1" + "*" * 99])
def test_segments_file_without_an_end_of_segment_is_refused(text: str, tmp_path: Path) -> None:
    """A file in which no segment ends can't be read at all, which is said without quoting it."""
    source = Source(write(tmp_path, text), x12.FORMATS["835"], SETTINGS)
    with pytest.raises(FrameError, match="malformed: (no X12|a segment)") as raised:
        list(source.frames())
    assert "nothing" not in str(raised.value)


def test_segments_one_without_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment that does not end within the limit stops the reading instead of filling the memory."""
    monkeypatch.setattr(segments, "BLOCK_BYTES", 1024)
    monkeypatch.setattr(segments, "SEGMENT_BYTES_MAX", 4096)
    source = Source(write(tmp_path, PLAIN[:200] + "X" * 9000), x12.FORMATS["835"], SETTINGS)
    with pytest.raises(FrameError, match="longer than 4096 bytes"):
        list(source.frames())


def test_envelope_without_any_set_is_found(tmp_path: Path) -> None:
    """An interchange in which no set lies is not silently empty."""
    _, source = read(write(tmp_path, interchange()))
    assert found(source) == [(0, 5, 0, "no_transaction_set")]


def test_reading_truncated_file_keeps_the_whole_sets(tmp_path: Path) -> None:
    """A file that breaks off gives the sets before the break; the broken one is set aside."""
    text = PLAIN[: PLAIN.index("PLB*")]
    events, source = read(write(tmp_path, text))
    assert events.filter(kind="remittance_received")["reference"].to_list() == ["TRACE1"]
    assert (2, 8, 0, "missing_se") in found(source)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (PLAIN, "835"),
        (interchange(transaction("837", "BHT*0019")), "837"),
        (interchange(transaction("277", "BHT*0085"), version="005010X214"), "277ca"),
        (interchange(transaction("277", "BHT*0010"), version="005010X212"), "277"),
        (interchange(transaction("997", "AK1*HC*1")), "999"),
        (interchange(transaction("278", "BHT*0078"), FIRST), "835"),
        (interchange(transaction("278", "BHT*0078")), "x12"),
        (interchange().replace("GS*HP", "TA1*1*240101*1200*A*000~GS*HP"), "999"),
        ("some words first\n" + PLAIN.replace("~", "\n"), "835"),
        ("Id,CLAIMID,ST,835,AMOUNT\n1,2,3,4,5\n", ""),
        ('{"kind":"charge_posted","st":"ST*835"}', ""),
        ("<Invoice>ISA</Invoice>", ""),
        ("01,122099999,123456789,040621,0200,1,65,,2/\n16,165,1500,,,12 MAIN ST/STE/4/\n", ""),
        ("\ufeff GS*SH*A*B*20240105*0900*1*X*004010~ST*AAA*0001~", "x12"),
        ("", ""),
    ],
)
def test_recognise_head_of_a_file_names_its_format(head: str, name: str) -> None:
    """ST01 says what a file is, whatever its group or its name says; what is no X12 is none."""
    assert x12.recognise(head.encode()[:4096]) == name


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("150000", 15_000_000), ("150000.00", 15_000_000), ("810.8", 81_080), ("-1.27", -127), (".5", 50),
        ("+3.", 300), ("-0", 0), ("605.0000", 60_500), (" 7 ", 700), ("", None), (".", None), ("-", None),
        ("1,000", None), ("1e3", None), ("1.005", None), ("XXX", None), ("12.3.4", None), ("\xb2.00", None),
        ("--1", None), ("NaN", None), ("9" * 30, None), ("10000000000.00", 10**12), ("10000000000.01", None),
    ],
)  # fmt: skip
def test_values_amount_is_exact_or_none(text: str, amount: int | None) -> None:
    """Decimals become hundredths without any rounding, and nothing else becomes an amount."""
    assert minor_units(text) == amount


@pytest.mark.parametrize(
    ("text", "places", "amount"),
    [
        ("450", 0, 450), ("450.00", 0, 450), ("450.50", 0, None), ("1.234", 3, 1234), ("-1.2", 3, -1200),
        ("1.23450", 4, 12_345), ("1.2345", 3, None), ("1000000000.000", 3, 10**12), ("1000000000.001", 3, None),
    ],
)  # fmt: skip
def test_values_amount_has_the_places_of_its_currency(text: str, places: int, amount: int | None) -> None:
    """A yen has no decimals and a dinar three; what a currency can't hold is no amount of it."""
    assert minor_units(text, places) == amount


def test_values_days_and_clocks_are_checked() -> None:
    """A date that the calendar does not have is none; a clock that is none is midnight."""
    assert day("19700102") == 1
    assert day("240105") == day("20240105") == day("20240105-20240107")
    assert [day(text) for text in ("20240231", "20002316", "BAD_DATE", "", "2024010")] == [None] * 5
    assert (clock_ms("0102"), clock_ms("010203"), clock_ms("102497"), clock_ms("noon")) == (3_720_000, 3_723_000, 0, 0)


def test_findings_codes_are_one_documented_table() -> None:
    """Every code that the readers use is in the table with its meaning, in one group only."""
    assert len(CODES) == len(ENVELOPE_CODES) + len(STRUCTURE_CODES) + len(ARITHMETIC_CODES)
    sources = "".join(path.read_text() for path in Path(x12.__file__).parent.glob("*.py") if path.stem != "findings")
    assert [code for code in CODES if f'"{code}"' not in sources] == []
    assert all(meaning and not meaning.endswith(".") for meaning in CODES.values())
