"""837, 277CA, 277, 999, 997 and TA1 as events: a claim on its way to a payer, and what comes back before it is paid."""

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from unit.sources.test_x12_835 import assert_valid
from unit.sources.x12_texts import (
    SETTINGS,
    claim_token,
    found,
    interchange,
    of_kind,
    payer_claim_token,
    read,
    transaction,
    write,
)

from adapters.sources import x12
from adapters.sources.source import Source
from runtime.errors import FrameError

CLAIMS = transaction(
    "837",
    "BHT*0019*00*BATCH7*20240102*0932*CH",
    "NM1*41*2*GENERAL HOSPITAL*****46*12345",
    "HL*1**20*1",
    "NM1*85*2*GENERAL HOSPITAL*****XX*1234567893",
    "HL*2*1*22*0",
    "SBR*P*18*******CI",
    "NM1*IL*1*DOE*JANE****MI*MEMBER1",
    "NM1*PR*2*HEALTH PLAN*****PI*87726",
    "CLM*A1*540.5***11:B:1*Y*A*Y*Y",
    "LX*1",
    "SV1*HC:99213*540.5*UN*1***1",
    "HL*3*1*22*1",
    "NM1*PR*2*OTHER PLAN*****PI*60054",
    "HL*4*3*23*0",
    "NM1*QC*1*ROE*RICHARD",
    "CLM*B2*100***11:B:7*Y*A*Y*Y",
    "REF*F8*ICN9",
    "SBR*S*18",
    "NM1*PR*2*SECONDARY*****PI*99999",
    "REF*F8*NOT-OURS",
    "LX*1",
    "SV1*HC:99213*100*UN*1***1",
    "HL*5*1*22*0",
    "NM1*PR*1*SMITH*JOHN****MI*123456789",
    "CLM*C3*7",
    control="0007",
)


def accepted(*claims: str) -> str:
    """A 277CA for one batch; `claims` are the segments of the claim level."""
    return transaction(
        "277",
        "BHT*0085*08*ACK1*20240103*1008*TH",
        "HL*1**20*1",
        "NM1*PR*2*HEALTH PLAN*****PI*87726",
        "TRN*1*ACK1",
        "HL*2*1*21*1",
        "NM1*41*2*GENERAL HOSPITAL*****46*12345",
        "TRN*2*BATCH7",
        "STC*A1:20*20240103*WQ*640.5",
        "HL*3*2*19*1",
        "NM1*85*2*GENERAL HOSPITAL*****XX*1234567893",
        "TRN*1*0",
        "STC*A1:20*20240103*WQ*640.5",
        *claims,
    )


def test_837_claims_become_submissions(tmp_path: Path) -> None:
    """Each claim is one event with its charge, its frequency, its own payer, and the batch it was sent in."""
    events, source = read(write(tmp_path, interchange(CLAIMS, number=42, version="005010X222A1")))
    assert not source.quarantined
    rows = of_kind(events, "claim_submitted")
    assert [row["document"] for row in rows] == [claim_token(number) for number in ("A1", "B2", "C3")]
    assert [(row["amount_minor"], row["reason"]) for row in rows] == [(54_050, "1"), (10_000, "7"), (700, None)]
    assert [row["counterparty"] for row in rows] == ["87726", "60054", None]
    assert [row["correlation_id"] for row in rows] == [None, payer_claim_token("ICN9"), None]
    assert {row["reference"] for row in rows} == {"42/0007"}
    assert rows[0]["occurred_at"].isoformat() == "2024-01-02T09:32:00+00:00"
    figures = source.total().figures
    assert (figures["transactions"], figures["claims"], figures["charged_minor"]) == (1, 3, 64_750)
    assert_valid(events)


def test_837_batch_sent_again_gives_the_same_ids_and_a_new_batch_others(tmp_path: Path) -> None:
    """The same batch in another interchange repeats its events; under other batch numbers it is another submission."""
    text = interchange(CLAIMS)
    once, _ = read(write(tmp_path, text))
    again, _ = read(write(tmp_path, text.replace("000000001", "000000055")))
    other, _ = read(write(tmp_path, interchange(CLAIMS, number=2)))
    assert again.equals(once)
    assert not set(other["event_id"]) & set(once["event_id"])


@pytest.mark.parametrize(
    ("good", "bad", "place"),
    [
        ("CLM*A1*540.5", "CLM*A1*540,5", (10, 2, "bad_amount")),
        ("CLM*A1*", "CLM**", (10, 1, "missing_element")),
        ("11:B:1*", "11:B:first*", (10, 5, "bad_code")),
        ("BHT*0019*00*BATCH7*20240102", "BHT*0019*00*BATCH7*2024", (2, 4, "missing_date")),
        ("BHT*", "XXX*", (1, 0, "missing_bht")),
    ],
)
def test_837_broken_batch_is_set_aside(good: str, bad: str, place: tuple, tmp_path: Path) -> None:
    """A batch with an element that can't be read gives no event, and the place of what is wrong."""
    events, source = read(write(tmp_path, interchange(CLAIMS.replace(good, bad))))
    assert events.is_empty()
    assert (1, *place) in found(source)


def test_277ca_claims_are_accepted_or_rejected(tmp_path: Path) -> None:
    """The claim level decides; what the receiver and the provider are told of the whole batch is only counted."""
    text = accepted(
        "HL*4*3*PT", "NM1*QC*1*DOE*JANE", "TRN*2*A1", "STC*A2:20*20240104*WQ*540.5", "REF*1K*ICN1", "HL*5*3*PT",
        "TRN*2*B2", "STC*A1:20*20240105*WQ*100", "STC*A7:562:85*20240105*U*100*******A7:21", "SVC*HC:1*1", "STC*A7:1",
        "REF*1K*ICN-OF-A-LINE", "HL*6*3*PT", "TRN*2*C3", "STC*A0:16",
    )  # fmt: skip
    events, source = read(write(tmp_path, interchange(text, version="005010X214")))
    assert not source.quarantined
    (taken,), (refused,), (other,) = (
        of_kind(events, kind) for kind in ("claim_accepted", "claim_rejected", "claim_status_reported")
    )
    assert (taken["document"], taken["reason"], taken["amount_minor"]) == (claim_token("A1"), "A2:20", 54_050)
    assert (taken["correlation_id"], str(taken["occurred_at"].date())) == (payer_claim_token("ICN1"), "2024-01-04")
    assert (refused["document"], refused["reason"], refused["amount_minor"]) == (claim_token("B2"), "A7:562", 10_000)
    assert json.loads(refused["attributes"]) == {"statuses": ["A1:20", "A7:21"]}
    assert (other["reason"], other["amount_minor"], str(other["occurred_at"].date())) == ("A0:16", 0, "2024-01-03")
    assert {row["reference"] for row in (taken, refused, other)} == {"BATCH7"}
    assert {row["counterparty"] for row in (taken, refused, other)} == {"87726"}
    figures = source.total().figures
    assert (figures["accepted"], figures["rejected"], figures["reported"]) == (1, 1, 1)
    assert (figures["batch_statuses"], figures["line_statuses"]) == (2, 1)
    assert set(events["source"]) == {"277ca"}
    assert_valid(events)


def test_277_answer_names_the_claim_by_the_providers_number(tmp_path: Path) -> None:
    """In an answer TRN is the inquiry's own number; the claim is the one that REF*EJ names."""
    text = transaction(
        "277", "BHT*0010*08*X*20240103*1008*DG", "HL*1**20*1", "NM1*PR*2*PLAN*****PI*87726", "HL*2*1*21*1",
        "HL*3*2*19*1", "HL*4*3*22*0", "TRN*2*INQUIRY1", "STC*P1:20*20240103**100", "REF*EJ*A1",
    )  # fmt: skip
    events, source = read(write(tmp_path, interchange(text, version="005010X212")))
    assert not source.quarantined
    (row,) = of_kind(events, "claim_status_reported")
    assert (row["document"], row["reason"], row["source"]) == (claim_token("A1"), "P1:20", "277")


@pytest.mark.parametrize(
    ("segments", "place"),
    [
        (("HL*4*3*PT", "TRN*2*A1"), (15, 0, "missing_status")),
        (("HL*4*3*PT", "TRN*2*A1", "STC*not in order*20240104"), (16, 1, "bad_code")),
        (("HL*4*3*PT", "TRN*2", "STC*A2:20*20240104"), (15, 2, "missing_element")),
        (("HL*4*3*PT", "TRN*2*A1", "STC*A2:20*20240104*WQ*much"), (16, 4, "bad_amount")),
        (("HL*4*3*PT", "STC*A3:21*20240104"), (15, 0, "orphan_segment")),
    ],
)
def test_277ca_broken_set_is_set_aside(segments: tuple[str, ...], place: tuple, tmp_path: Path) -> None:
    """A claim without a readable status sets the acknowledgement aside, with the place."""
    events, source = read(write(tmp_path, interchange(accepted(*segments), version="005010X214")))
    assert events.is_empty()
    assert found(source) == [(1, *place)]


def test_999_acknowledged_sets_are_named_as_their_batches(tmp_path: Path) -> None:
    """Each acknowledged set is one event, named GS06/ST02 as the claims of that batch name it."""
    text = transaction(
        "999", "AK1*HC*000042*005010X222A1", "AK2*837*0007", "IK5*A", "AK2*837*0008", "IK3*CLM*22**8", "CTX*CLM01:A1",
        "IK5*R*5", "AK9*P*2*2*1",
    )  # fmt: skip
    events, source = read(write(tmp_path, interchange(text)))
    assert not source.quarantined
    rows = of_kind(events, "batch_acknowledged")
    assert [(row["document"], row["reason"], row["amount_minor"]) for row in rows] == [
        ("42/0007", "A", 0),
        ("42/0008", "R", 0),
    ]
    assert rows[0]["occurred_at"].isoformat() == "2024-01-05T09:00:00+00:00"
    submitted, _ = read(write(tmp_path, interchange(CLAIMS, number=42)))
    assert rows[0]["document"] in set(submitted["reference"])
    figures = source.total().figures
    assert (figures["accepted"], figures["rejected"], figures["groups_partly_accepted"]) == (1, 1, 1)
    assert_valid(events)


def test_999_group_verdict_answers_for_sets_without_their_own(tmp_path: Path) -> None:
    """A group's verdict stands for a set that has none, and for a whole group of which no set is named."""
    named = transaction("997", "AK1*HC*42", "AK2*837*0007", "AK9*R*1*1*0")
    unnamed = transaction("997", "AK1*HC*43", "AK9*A*5*5*5")
    events, source = read(write(tmp_path, interchange(named, unnamed)))
    assert not source.quarantined
    rows = [(row["document"], row["reason"]) for row in of_kind(events, "batch_acknowledged")]
    assert rows == [("42/0007", "R"), ("43/*", "A")]


def test_999_alike_answers_of_different_days_are_different_events(tmp_path: Path) -> None:
    """Answers can be alike to the last letter; the group's time keeps them apart, and a repeat together."""
    text = interchange(transaction("999", "AK1*HC*1", "AK2*837*0001", "IK5*A", "AK9*A*1*1*1"))
    once, _ = read(write(tmp_path, text))
    again, _ = read(write(tmp_path, text.replace("000000001", "000000002")))
    later, _ = read(write(tmp_path, text.replace("*20240105*0900*1*", "*20240106*0900*1*")))
    assert again.equals(once)
    assert set(later["event_id"]).isdisjoint(once["event_id"])


@pytest.mark.parametrize(
    ("segments", "place"),
    [
        (("AK1*HC*1", "AK2*837*0001", "IK5*Q", "AK9*A*1*1*1"), (4, 1, "bad_code")),
        (("AK1*HC*1", "IK5*A", "AK9*A*1*1*1"), (3, 0, "orphan_segment")),
        (("AK1*HC*1", "AK2*837*0001"), (3, 0, "missing_status")),
        (("AK2*837*0001", "IK5*A"), (1, 0, "missing_ak1")),
    ],
)
def test_999_broken_set_is_set_aside(segments: tuple[str, ...], place: tuple, tmp_path: Path) -> None:
    """An answer that names no verdict, or no set for it, is set aside with the place."""
    events, source = read(write(tmp_path, interchange(transaction("999", *segments))))
    assert events.is_empty()
    assert (1, *place) in found(source)


def test_ta1_interchange_answer_is_an_event_of_its_own(tmp_path: Path) -> None:
    """TA1 stands outside every set and still is read; an unreadable one is a fault of the envelope."""
    text = interchange().replace("GS*HP", "TA1*000000041*240104*1230*R*018~GS*HP")
    events, source = read(write(tmp_path, text))
    assert not source.quarantined
    (row,) = of_kind(events, "batch_acknowledged")
    assert (row["document"], row["reason"], row["attributes"]) == ("TA1/000000041", "R", '{"note":"018"}')
    assert row["occurred_at"].isoformat() == "2024-01-04T12:30:00+00:00"
    assert source.total().figures["interchanges_rejected"] == 1
    _, broken = read(write(tmp_path, text.replace("*R*018", "*maybe*018")))
    assert (0, 2, 4, "bad_code") in found(broken)


# ── collected files, against the table in the README that lies with them ────────────────────────────────────────────


def table(text: str, section: str) -> dict[str, str]:
    """File -> what the README says it holds."""
    part = text.partition(f"## {section}\n")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("| ")
    ]
    return {row[0]: "|".join(row[3:]) for row in rows[1:]}


def held(text: str, name: str) -> dict[str, int]:
    """One `name={...}` of a row."""
    match = re.search(rf"{name}=(\{{.*?\}})", text)
    return ast.literal_eval(match[1]) if match else {}


def test_837_collected_files_hold_what_their_table_says(shared_data: Callable[[str], Path]) -> None:
    """Claims and charges of every collected 837 are those of the table, quarantined or not."""
    rows = table(shared_data("README.md").read_text(), "837")
    assert sorted(rows) == sorted(path.name for path in shared_data("837").iterdir())
    for name, text in rows.items():
        events, source = read(shared_data(f"837/{name}"))
        figures = source.total().figures
        prefix = "837_" if "837_transactions" in figures else ""
        claims, charges = re.search(r"claims=(\d+), charges=([\d.]+)", text + ", claims=0, charges=0.0").groups()
        expected = (held(text, "ST")["837"], int(claims), round(float(charges) * 100))
        keys = ("transactions", "claims", "charged_minor")
        assert tuple(figures[prefix + key] for key in keys) == expected, name
        submitted = events.filter(kind="claim_submitted")["amount_minor"]
        assert source.quarantined or (submitted.len(), submitted.sum()) == expected[1:], name


def test_277_collected_files_hold_what_their_table_says(shared_data: Callable[[str], Path]) -> None:
    """Every status of every collected 277 is an event or counted; a 276 is no answer and is set aside."""
    rows = table(shared_data("README.md").read_text(), "277")
    assert sorted(rows) == sorted(path.name for path in shared_data("277").iterdir())
    for name, text in rows.items():
        events, source = read(shared_data(f"277/{name}"))
        figures = source.total().figures
        if "277" not in held(text, "ST"):
            assert [code for *_, code in found(source)] == ["unread_set"], name
            continue
        statuses = figures["claims"] + figures["batch_statuses"] + figures["line_statuses"]
        assert statuses == sum(held(text, "STC").values()), name
        assert events.height == figures["claims"] == figures["accepted"] + figures["rejected"] + figures["reported"]
    reasons = {
        name: read(shared_data(f"277/imsweb_x12_277CA_{name}.txt"))[0].select("kind", "reason").row(0)
        for name in ("accepted", "rejected")
    }
    assert reasons == {"accepted": ("claim_accepted", "A2:20"), "rejected": ("claim_rejected", "A7:562")}


def test_999_collected_files_hold_what_their_table_says(shared_data: Callable[[str], Path]) -> None:
    """Accepted and rejected sets, groups and interchanges of every collected 999 and 997 are those of the table."""
    rows = table(shared_data("README.md").read_text(), "999")
    assert sorted(rows) == sorted(path.name for path in shared_data("999").iterdir())
    for name, text in rows.items():
        events, source = read(shared_data(f"999/{name}"))
        answers, figures = held(text, "ack"), source.total().figures
        for figure, keys in {
            "accepted": ("IK5*A", "AK5*A"),
            "rejected": ("IK5*R", "AK5*R"),
            "groups_accepted": ("AK9*A",),
            "groups_rejected": ("AK9*R",),
            "groups_partly_accepted": ("AK9*P",),
        }.items():
            assert figures[figure] == sum(answers.get(key, 0) for key in keys), (name, figure)
        interchanges = figures.get("interchanges_accepted", 0) + figures.get("interchanges_rejected", 0)
        assert interchanges == sum(count for key, count in answers.items() if key.startswith("TA1"))
        if not figures["transactions_quarantined"]:
            assert events.height == figures["accepted"] + figures["rejected"] + interchanges


def test_x12_malformed_collected_files_give_nothing_and_say_why(shared_data: Callable[[str], Path]) -> None:
    """Files that are malformed on purpose give no event, and each has its finding or is refused as a whole."""
    for path in sorted(shared_data("x12_malformed").iterdir()):
        source = Source(path, x12.FORMATS["x12"], SETTINGS)
        if "no.delim" in path.name:
            with pytest.raises(FrameError, match="terminator"):
                list(source.frames())
            continue
        assert list(source.frames()) == []
        assert {code for transaction, *_, code in found(source) if transaction} >= {"unread_set"}
