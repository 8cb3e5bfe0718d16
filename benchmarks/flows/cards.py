"""Card payments from authorisation to the bank: captures, settlements and fees, refunds by two persons, payouts that
tie."""

import polars as pl

from benchmarks.flows import ENTITIES, Month, account_names, events, marked, named_places

PAYMENTS_PER_PAYOUT, REFUND_SHARE = 50, 0.03
EVENTS_PER_PAYMENT = 4 + 3 * REFUND_SHARE + 2 / PAYMENTS_PER_PAYOUT
_ASKED, _APPROVED = ('{"person":"' + name + '"}' for name in ("clerk", "manager"))


def cards(month: Month, wanted: int) -> pl.DataFrame:
    """About so many events."""
    paid = _payments(month, max(round(wanted / EVENTS_PER_PAYMENT), 1))
    refunded = month.chosen(paid, REFUND_SHARE).with_columns(pl.col("refund_minor").alias("amount_minor"))
    payouts = _payouts(paid, refunded)
    by_payout = {"reference": "payout"}

    def card(rows: pl.DataFrame, kind: str, document: str, after: int = 0, **given: pl.Expr | str) -> pl.DataFrame:
        return events(month, rows, kind, "card", document=document, after=after, **given)

    return pl.concat(
        [
            card(paid, "card_authorised", "au"),
            card(paid, "card_captured", "ca", 40, reference="au"),
            card(paid, "card_settled", "ca", 4_000, **by_payout),
            card(paid, "card_fee_charged", "fee", 4_001, amount_minor="fee_minor", **by_payout),
            card(refunded, "refund_requested", "re", 4_500, attributes=pl.lit(_ASKED)),
            card(refunded, "refund_approved", "re", 5_000, attributes=pl.lit(_APPROVED)),
            card(refunded, "refund_paid", "re", 6_000, **by_payout),
            card(payouts, "payout_paid", "payout", 6_500),
            card(payouts, "deposit_received", "dep", 12_000, **by_payout),
        ]
    )


def _payments(month: Month, count: int) -> pl.DataFrame:
    facility, amount = month.facilities(count), month.random.integers(1_500, 90_000, count)
    frame = pl.DataFrame(
        {
            "entity_no": facility % ENTITIES,
            "facility_no": facility,
            "account": account_names(pl.Series(month.accounts(count))),
            "amount_minor": amount,
            "fee_minor": amount * 29 // 1000 + 30,
            "refund_minor": amount // 4,
            "at": month.moments(count),
        }
    ).with_row_index("number")
    payout_no = (pl.int_range(pl.len()).over("entity_no") // PAYMENTS_PER_PAYOUT).alias("payout_no")
    return (
        named_places(frame)
        .with_columns(payout_no)
        .with_columns(
            marked("po-{}-{}", "entity_no", "payout_no").alias("payout"),
            *(marked(name + "-{}", "number").alias(name) for name in ("au", "ca", "fee", "re")),
        )
    )


def _payouts(paid: pl.DataFrame, refunded: pl.DataFrame) -> pl.DataFrame:
    """What each payout announces: its settlements less fees and refunds."""
    refunds = refunded.group_by("payout").agg(pl.col("refund_minor").sum())
    return (
        paid.group_by("payout", maintain_order=True)
        .agg(pl.col("entity").first(), pl.col("amount_minor", "fee_minor").sum(), pl.col("at").max())
        .join(refunds, on="payout", how="left", maintain_order="left")
        .with_columns(
            pl.col("amount_minor") - pl.col("fee_minor") - pl.col("refund_minor").fill_null(0),
            pl.concat_str("payout", pl.lit("-dep")).alias("dep"),
        )
    )
