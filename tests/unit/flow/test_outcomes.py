"""Outcomes: what a call's answers mean, and which step out of doubt an ERP's terms allow."""

from collections.abc import Sequence
from datetime import date

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.flow.outcomes import KEY_MARGIN_S, Call, Doubt, after_lookup, gravest, judge, next_step, not_sent
from runtime.ports import ErpTerms, JournalEntry, Outcome

T0 = 1_800_000_000_000
ATOMIC = ErpTerms(native_key="none", settle_s=5, atomicity="all_or_nothing", lines_max=9, entries_max=9, concurrency=1)
PER_ITEM = msgspec.structs.replace(ATOMIC, atomicity="per_item")
JOB = msgspec.structs.replace(ATOMIC, atomicity="job")


def call_of(*keys: str) -> Call:
    """A call with these entries, whose content does not matter here."""
    return tuple(
        JournalEntry(
            key=key,
            digest="",
            entity="mercy",
            currency="USD",
            period="2026-10",
            posted_on=date(2026, 10, 5),
            mode="summary",
            lane=3,
            document="",
            lines=(),
            sets=(),
        )
        for key in keys
    )


def codes(outcomes: Sequence[Outcome]) -> list[tuple[str, str]]:
    """Key and code of each."""
    return [(outcome.key, outcome.code) for outcome in outcomes]


# What is allowed, by key, lookup and whether the key still lives and the settling time is over.
@pytest.mark.parametrize(
    ("native_key", "lookup", "age_s", "step"),
    [
        ("permanent", True, 1, "send_again"),
        ("permanent", False, 10_000, "send_again"),
        ("windowed", True, 10, "send_again"),
        ("windowed", False, 10, "send_again"),
        ("windowed", True, 360 - KEY_MARGIN_S, "look_up"),
        ("windowed", False, 360 - KEY_MARGIN_S, "park"),
        ("none", True, 4.9, "wait"),
        ("none", True, 5, "look_up"),
        ("none", False, 0, "park"),
    ],
)
def test_step_out_of_doubt_follows_from_terms_and_time(native_key: str, lookup: bool, age_s: float, step: str) -> None:
    """The table of terms alone decides."""
    terms = msgspec.structs.replace(ATOMIC, native_key=native_key, lookup=lookup, key_life_s=360)
    assert next_step(terms, Doubt("a", T0, first_sent_ms=T0), T0 + round(age_s * 1000)) == step


@given(st.sampled_from(["permanent", "windowed", "none"]), st.booleans(), st.integers(0, 1_000_000))
def test_step_that_needs_proof_never_sends_again(native_key: str, lookup: bool, age_ms: int) -> None:
    """What was refused when sent again, or whose key's first use is not known, is not sent under a key's protection."""
    terms = msgspec.structs.replace(ATOMIC, native_key=native_key, lookup=lookup, key_life_s=360)
    assert next_step(terms, Doubt("a", T0, T0, proof_needed=True), T0 + age_ms) != "send_again"
    unknown_first_use = next_step(terms, Doubt("a", T0), T0 + age_ms)
    assert (unknown_first_use == "send_again") == (native_key == "permanent")


def test_judge_refused_call_of_several_sends_all_back() -> None:
    """Nothing was applied and nobody is known to be at fault, so nothing is parked."""
    judged = judge(ATOMIC, call_of("a", "b"), [Outcome("a", "rejected"), Outcome("b", "rejected")])
    assert judged.isolate
    assert codes(judged.outcomes) == [("a", "unavailable"), ("b", "unavailable")]


def test_judge_refused_call_of_several_keeps_doubts() -> None:
    """What was in doubt before stays so: the refusal is of this call, not of the one before."""
    judged = judge(ATOMIC, call_of("a", "b"), [Outcome("a", "rejected"), Outcome("b", "rejected")], doubted={"a"})
    assert judged.isolate
    assert codes(judged.outcomes) == [("a", "unknown"), ("b", "unavailable")]


@pytest.mark.parametrize(("keys", "terms"), [("a", ATOMIC), ("a", PER_ITEM), ("ab", PER_ITEM), ("a", JOB)])
def test_judge_rejection_of_an_entry_itself_is_final(keys: str, terms: ErpTerms) -> None:
    """Alone, or where an ERP judges each entry by itself, a rejection is one."""
    judged = judge(terms, call_of(*keys), [Outcome(key, "rejected") for key in keys])
    assert not judged.isolate
    assert {o.code for o in judged.outcomes} == {"rejected"}


@pytest.mark.parametrize(("details", "isolate"), [(["EF04", "EF04"], True), (["EF04", "EP01"], False)])
def test_judge_job_is_taken_apart_only_when_one_reason_refused_all(details: list[str], isolate: bool) -> None:
    """A report with a reason for each entry is a judgement of each."""
    answered = [Outcome(key, "rejected", detail=detail) for key, detail in zip("ab", details, strict=True)]
    assert judge(JOB, call_of("a", "b"), answered).isolate == isolate


def test_judge_missing_outcome_is_unknown() -> None:
    """What an adapter does not answer for is in doubt, not lost."""
    judged = judge(PER_ITEM, call_of("a", "b"), [Outcome("a", "posted", "JE-1")])
    assert codes(judged.outcomes) == [("a", "posted"), ("b", "unknown")]


def test_judge_refusal_of_a_doubted_entry_needs_proof_or_a_person() -> None:
    """It may be there from the first time: a lookup tells, and where there is none, a person must."""
    refused = [Outcome("a", "rejected", detail="period closed")]
    judged = judge(PER_ITEM, call_of("a"), refused, doubted={"a"})
    assert codes(judged.outcomes) == [("a", "unknown")] and judged.proof_needed == {"a"}
    blind = msgspec.structs.replace(PER_ITEM, lookup=False)
    assert codes(judge(blind, call_of("a"), refused, doubted={"a"}).outcomes) == [("a", "parked")]


def test_gravest_of_a_mixed_call_is_what_the_governor_must_hear() -> None:
    """One throttled entry throttles, with the longest delay that any part asked for."""
    mixed = [Outcome("a", "posted"), Outcome("b", "throttled"), Outcome("c", "rejected", retry_after_s=9.0)]
    assert (gravest(mixed).code, gravest(mixed).retry_after_s) == ("throttled", 9.0)


def test_not_sent_keeps_doubts() -> None:
    """A call that was not made leaves fresh entries sealed and doubted ones in doubt."""
    assert codes(not_sent(call_of("a", "b"), {"b"}, "late")) == [("a", "unavailable"), ("b", "unknown")]


def test_after_lookup_found_is_posted_and_absent_goes_back() -> None:
    """Found is found; absent after settling may be sent again."""
    outcomes = after_lookup(["a", "b"], {"a": Outcome("a", "posted", "JE-1")})
    assert [(o.key, o.code, o.erp_ref) for o in outcomes] == [("a", "posted", "JE-1"), ("b", "unavailable", "")]


def test_after_lookup_without_an_answer_changes_nothing() -> None:
    """An ERP that can't be asked proves nothing."""
    assert after_lookup(["a"], None) == []
