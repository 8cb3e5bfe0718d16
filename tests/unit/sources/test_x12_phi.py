"""No patient leaves an X12 file: marked identifiers are planted everywhere and looked for in all that comes out."""

import random
from pathlib import Path

import pytest
from unit.sources.x12_texts import interchange, read, remittance, transaction, write

from adapters.sources import x12
from adapters.sources.source import Source, SourceSettings
from runtime.errors import ConfigError, FrameError

MARK = "CANARY"
REMITTANCE = interchange(
    remittance(
        "75",
        "CLP*CANARY01*1*100*75*20*12*CANARY02*11*1",
        "CAS*CO*45*5",
        "NM1*QC*1*CANARY03*CANARY04*CANARY05***MI*CANARY06",
        "NM1*IL*1*CANARY07*CANARY08****MI*CANARY09",
        "NM1*74*1*CANARY10*CANARY11****C*CANARY12",
        "MOA***MA02*CANARY MOA",
        "REF*1L*CANARY13",
        "REF*EA*CANARY14",
        "REF*SY*CANARY15",
        "PER*CX*CANARY16*TE*CANARY17",
        "N3*CANARY18",
        "N4*CANARY19*TX*CANARY20",
        "DMG*D8*CANARY21",
        "SVC*HC:CANARY22:::::CANARY23*100*80*CANARY24*1*HC:CANARY25",
        "DTM*472*CANARY26",
        "CAS*PR*2*20",
        "REF*6R*CANARY27",
        "LQ*HE*CANARY28 TEXT",
        "LQ*ZZ*CANARY29",
        "NTE*ADD*CANARY30",
        "PLB*1234567893*20241231*WO:CANARY31 DOE JANE*5*CS:CANARY32:CANARY33*-5",
    )
)
CLAIMS = interchange(
    transaction(
        "837",
        "BHT*0019*00*1*20240102*0932*CH",
        "NM1*41*1*CANARY01*CANARY02****46*CANARY03",
        "HL*1**20*1",
        "HL*2*1*22*0",
        "SBR*P*18*CANARY04*CANARY05*****CI",
        "NM1*IL*1*CANARY06*CANARY07****MI*CANARY08",
        "N3*CANARY09",
        "N4*CANARY10*TX*70000",
        "DMG*D8*CANARY11*F",
        "REF*SY*CANARY12",
        "NM1*PR*1*CANARY13*CANARY14****MI*CANARY15",
        "CLM*CANARY16*100***11:B:1*Y*A*Y*Y",
        "REF*F8*CANARY17",
        "REF*EA*CANARY18",
        "HI*BK:CANARY19",
        "NTE*ADD*CANARY20",
        "LX*1",
        "SV1*HC:CANARY21*100*UN*1***1",
        "DTP*472*D8*CANARY22",
    )
)
STATUSES = interchange(
    transaction(
        "277",
        "BHT*0085*08*1*20240103*1008*TH",
        "HL*1**20*1",
        "NM1*PR*2*PLAN*****PI*87726",
        "HL*2*1*21*1",
        "TRN*2*BATCH7",
        "HL*3*2*19*1",
        "HL*4*3*PT",
        "NM1*QC*1*CANARY01*CANARY02****MI*CANARY03",
        "TRN*2*CANARY04",
        "STC*A7:562*20240104*U*100********CANARY05 IN WORDS",
        "REF*1K*CANARY06",
        "REF*EJ*CANARY07",
        "DTP*472*D8*CANARY08",
        "SVC*HC:CANARY09*100",
        "STC*A7:562*20240104*U*100********CANARY10",
    ),
    version="005010X214",
)
ANSWERS = interchange(
    transaction(
        "999", "AK1*HC*42", "AK2*837*0007", "IK3*CLM*22*CANARY01*8", "CTX*CLM01:CANARY02", "IK4*2*782*1*CANARY03",
        "IK5*R*5*CANARY04", "AK9*R*1*1*0*CANARY05",
    )
)  # fmt: skip
FILES = {"835": REMITTANCE, "837": CLAIMS, "277ca": STATUSES, "999": ANSWERS}


def assert_unmarked(*things: object) -> None:
    """The mark is in none of these, however they are written out."""
    for thing in things:
        assert MARK not in repr(thing).upper()


def told(source: Source) -> list[object]:
    """All that a source says besides its frames."""
    return [source.faults, source.quarantined, [str(fault) for fault in source.faults], source.total()]


@pytest.mark.parametrize("name", FILES)
def test_phi_marked_identifiers_are_in_no_event(name: str, tmp_path: Path) -> None:
    """A good file with marks in names, numbers, addresses, dates and texts is accepted, and no mark comes out of it."""
    events, source = read(write(tmp_path, FILES[name]))
    assert events.height and not source.quarantined
    assert source.total().figures["transactions"] == 1
    assert_unmarked(events.rows(), *told(source))


@pytest.mark.parametrize("name", FILES)
def test_phi_marks_in_place_of_codes_and_amounts_are_not_told(name: str, tmp_path: Path) -> None:
    """Whatever element a mark stands in instead of its value, neither events nor findings nor errors repeat it."""
    text = FILES[name]
    body = text.index("ST*")
    for at in [at for at in range(body, len(text)) if text[at] in "*:"]:
        if _names_a_payment_or_batch(text, at):
            continue
        end = min(text.find(separator, at + 1) for separator in "*:~" if text.find(separator, at + 1) > 0)
        changed = text[: at + 1] + "Canary doe, jane" + text[end:]
        try:
            events, source = read(write(tmp_path, changed))
        except FrameError as error:
            assert_unmarked(str(error), error)
        else:
            assert_unmarked(events.rows(), *told(source))


def _names_a_payment_or_batch(text: str, at: int) -> bool:
    """Elements that travel as they are by agreement: trace, payer and batch numbers, which identify no person."""
    segment = text[max(text.rfind("~", 0, at), 0) + 1 : at + 1]
    index = segment.count("*")
    travelling = {
        "TRN*1": (2, 3),
        "TRN*2*B": (2,),
        "TRN*2": (),
        "BPR": (10,),
        "NM1*PR": (9,),
        "AK1": (2,),
        "AK2": (2,),
        "ST": (2,),
    }
    return any(segment.startswith(start) and index in indices for start, indices in travelling.items()) or (
        segment == "TRN*2*" and text[at + 1 :].startswith("BATCH7")
    )


@pytest.mark.parametrize("name", FILES)
def test_phi_damaged_files_raise_only_frame_errors_without_marks(name: str, tmp_path: Path) -> None:
    """Bytes lost, turned or doubled anywhere never raise anything else, and no mark comes out."""
    chance = random.Random(20240105)
    for _ in range(150):
        raw = bytearray(FILES[name].encode())
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(raw))
            raw[at : at + chance.randrange(3)] = bytes(chance.randrange(256) for _ in range(chance.randrange(3)))
        source = Source(write(tmp_path, bytes(raw)), x12.FORMATS[name], SourceSettings(token_key=b"k" * 16))
        try:
            frames = list(source.frames())
        except FrameError as error:
            assert_unmarked(str(error))
        else:
            assert_unmarked(*(frame.rows() for frame in frames), *told(source))


def test_phi_tokens_depend_on_the_key(tmp_path: Path) -> None:
    """Another key gives other tokens and another body hash; without a key nothing is read."""
    path = write(tmp_path, REMITTANCE)
    one, _ = read(path)
    other, _ = read(path, SourceSettings(entity="north", token_key=b"another key, as long"))
    assert set(one["document"].drop_nulls()) & set(other["document"].drop_nulls()) == set(
        one.filter(kind="remittance_received")["document"]
    )
    assert set(one["attributes"].drop_nulls()) & set(other["attributes"].drop_nulls()) == set(
        one.filter(kind="claim_adjusted")["attributes"]
    )
    with pytest.raises(ConfigError, match="token_key"):
        read(path, SourceSettings(entity="north"))
