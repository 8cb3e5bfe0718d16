"""Remittances: claims as payers settle them (paid, adjusted, some denied), the remittance's head, interest beside the
claims, and the bank's money, which ties to the cent."""

import numpy as np
import polars as pl

from benchmarks.flows import ENTITIES, PAYERS, Month, events, marked, named_places

CLAIMS_PER_REMITTANCE, INTEREST_SHARE = 20, 0.25
DENIED_SHARE = 0.03  # of the claims: nothing is paid, and somebody has to look
# code, the share of the paid claims that have it, its share of what was charged
ADJUSTMENTS = (("CO-45", 0.8, 0.30), ("PR-1", 0.3, 0.08), ("PR-2", 0.2, 0.05), ("CO-253", 0.15, 0.02))
DENIAL = "CO-197"
EVENTS_PER_CLAIM = (
    2
    + DENIED_SHARE
    + (1 - DENIED_SHARE) * sum(share for _, share, _ in ADJUSTMENTS)
    + (2 + INTEREST_SHARE) / CLAIMS_PER_REMITTANCE
)


def remittances(month: Month, wanted: int) -> pl.DataFrame:
    """About so many events. A remittance's rows come together, its money some time after it."""
    count = max(round(wanted / EVENTS_PER_CLAIM / CLAIMS_PER_REMITTANCE), 1)
    claims = _claims(month, count)
    rows = [_claim_rows(month, claims, "claim_adjudicated"), _claim_rows(month, claims, "claim_paid")]
    denied, settled = claims.filter("denied"), claims.filter(~pl.col("denied"))
    rows.append(_adjusted(month, denied, DENIAL, pl.col("charge_minor")))
    for code, share, part in ADJUSTMENTS:
        adjusted_minor = (pl.col("charge_minor") * part).cast(pl.Int64())
        rows.append(_adjusted(month, month.chosen(settled, share), code, adjusted_minor))
    heads = _heads(month, claims)
    with_interest = heads.filter(pl.col("interest_minor") > 0)
    interest_id = pl.concat_str("remit", pl.lit("-interest"))
    interest_minor = -pl.col("interest_minor")  # a provider adjustment that adds to the payment is negative
    given = {"document": interest_id, "reference": "remit", "reason": pl.lit("L6"), "amount_minor": interest_minor}
    rows += [
        events(month, with_interest, "provider_adjusted", "remit", after=1, **given),
        events(month, heads, "remittance_received", "remit", after=1, document="remit", reference="trace"),
        events(month, heads, "eft_received", "bank", after=20_000, document="eft", reference="trace"),
    ]
    return pl.concat(rows)


def _claims(month: Month, remits: int) -> pl.DataFrame:
    remit = np.repeat(np.arange(remits), CLAIMS_PER_REMITTANCE)
    entity = (month.facilities(remits) % ENTITIES)[remit]
    charge = month.random.integers(5_000, 400_000, len(remit))
    denied = month.random.random(len(remit)) < DENIED_SHARE
    payer = pl.Series(PAYERS).gather(month.random.integers(0, len(PAYERS), remits)[remit])
    frame = pl.DataFrame(
        {
            "remit_no": remit,
            "entity_no": entity,
            "facility_no": month.facilities_of(entity),
            "counterparty": payer,
            "department": month.departments(len(remit)),
            "charge_minor": charge,
            "paid_minor": np.where(denied, 0, charge * 6 // 10),
            "denied": denied,
            "at": month.moments(remits)[remit],
        }
    ).with_row_index("number")
    return named_places(frame).with_columns(
        marked("cl-{}", "number").alias("document"),
        marked("ra-{}", "remit_no").alias("remit"),
        marked("tr-{}", "remit_no").alias("trace"),
        marked("eft-{}", "remit_no").alias("eft"),
    )


def _claim_rows(month: Month, claims: pl.DataFrame, kind: str) -> pl.DataFrame:
    return events(month, claims, kind, "remit", reference="remit", amount_minor="paid_minor")


def _adjusted(month: Month, claims: pl.DataFrame, code: str, amount_minor: pl.Expr) -> pl.DataFrame:
    id = pl.concat_str("document", pl.lit(f"-{code}"))
    given = {"event_id": id, "reference": "remit", "reason": pl.lit(code), "amount_minor": amount_minor}
    return events(month, claims, "claim_adjusted", "remit", **given)


def _heads(month: Month, claims: pl.DataFrame) -> pl.DataFrame:
    """What each remittance announces: what its claims are paid, and interest."""
    heads = claims.group_by("remit_no", maintain_order=True).agg(
        pl.col("entity", "counterparty", "remit", "trace", "eft", "at").first(), pl.col("paid_minor").sum()
    )
    interest = np.where(month.random.random(len(heads)) < INTEREST_SHARE, month.random.integers(1, 900, len(heads)), 0)
    return heads.with_columns(pl.Series("interest_minor", interest)).with_columns(
        (pl.col("paid_minor") + pl.col("interest_minor")).alias("amount_minor")
    )
