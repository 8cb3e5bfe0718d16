"""Purchasing: orders with lines, receipts, invoices with lines and tax, approvals by a second person, payments until
the bank and the supplier know. Some invoices bill too much: they are held, not paid."""

import numpy as np
import polars as pl

from benchmarks.flows import ENTITIES, Month, events, marked, named_places

LINES_MAX, OVERBILLED_SHARE = 4, 0.02
SUPPLIERS = 3_000
EVENTS_PER_ORDER = 3 * (1 + LINES_MAX) / 2 + 1 + 4 * (1 - OVERBILLED_SHARE)
TAX_PERCENT = 7
_SPREAD, _NUMBERS = 2_654_435_761, 10**9  # bills' numbers lie far apart: neighbours would look like twins


def purchasing(month: Month, wanted: int) -> pl.DataFrame:
    """About so many events."""
    orders = _orders(month, max(round(wanted / EVENTS_PER_ORDER), 1))
    lines = _lines(month, orders)
    bills = _bills(orders, lines)
    paid = bills.filter(~pl.col("overbilled"))
    tax = pl.concat_str(pl.lit('{"person":"clerk","tax_minor":'), "tax_minor", pl.lit("}"))
    approved = pl.lit('{"person":"manager"}')
    paying = {"document": "payment", "correlation_id": "bill"}
    return pl.concat(
        [
            events(month, lines, "po_line_approved", "orders", document="order_line"),
            events(month, lines, "goods_received", "dock", after=3_000, document="receipt", reference="order_line"),
            events(month, bills, "invoice_received", "invoices", after=8_000, document="bill", attributes=tax),
            _billed(month, lines),
            events(month, paid, "invoice_approved", "payables", after=9_000, document="bill", attributes=approved),
            events(month, paid, "payment_released", "payables", after=14_000, reference="bill", **paying),
            _answered(month, paid, "payment_cleared", "bank", 20_000),
            _answered(month, paid, "payment_confirmed", "payables", 21_000),
        ]
    )


def _billed(month: Month, lines: pl.DataFrame) -> pl.DataFrame:
    given = {"document": "bill_line", "reference": "order_line", "correlation_id": "bill"}
    return events(month, lines, "invoice_line_billed", "invoices", after=8_000, amount_minor="billed_minor", **given)


def _answered(month: Month, paid: pl.DataFrame, kind: str, source: str, after: int) -> pl.DataFrame:
    """What bank and supplier say of a payment."""
    document = pl.concat_str("payment", pl.lit(f"-{kind}"))
    given = {"document": document, "event_id": document, "reference": "payment", "correlation_id": "bill"}
    return events(month, paid, kind, source, after=after, **given)


def _orders(month: Month, count: int) -> pl.DataFrame:
    facility = month.facilities(count)
    frame = pl.DataFrame(
        {
            "entity_no": facility % ENTITIES,
            "facility_no": facility,
            "supplier_no": (month.random.random(count) ** 2 * SUPPLIERS).astype(np.int64),
            "bill_no": np.arange(count, dtype=np.int64) * _SPREAD % _NUMBERS,
            "overbilled": month.random.random(count) < OVERBILLED_SHARE,
            "at": month.moments(count),
        }
    ).with_row_index("order_no")
    # Suppliers are told apart by rounds, too: the same amount and date again would be a bill that came twice.
    with_supplier = named_places(frame).with_columns(marked("sup-{}", "supplier_no").alias("counterparty"))
    return with_supplier.with_columns(
        pl.format("{}/{}", "counterparty", pl.col("bill_no").cast(pl.String()).str.zfill(9)).alias("bill"),
        marked("pay-{}", "order_no").alias("payment"),
    )


def _lines(month: Month, orders: pl.DataFrame) -> pl.DataFrame:
    of = np.repeat(np.arange(len(orders)), month.random.integers(1, LINES_MAX + 1, len(orders)))
    units, price_minor = month.random.integers(1, 200, len(of)), month.random.integers(100, 50_000, len(of))
    lines = orders[of].with_columns(
        pl.int_range(pl.len()).over("order_no").alias("line_no"),
        month.departments(len(of)).alias("department"),
        pl.Series("quantity", units * 1000),
        pl.Series("amount_minor", units * price_minor),
    )
    too_much = pl.when("overbilled").then(pl.col("amount_minor") // 10 + 1).otherwise(0)
    return lines.with_columns(
        (pl.col("amount_minor") + too_much).alias("billed_minor"),
        marked("ord-{}/{}", "order_no", "line_no").alias("order_line"),
        marked("rec-{}/{}", "order_no", "line_no").alias("receipt"),
        marked("inv-{}/{}", "order_no", "line_no").alias("bill_line"),
    )


def _bills(orders: pl.DataFrame, lines: pl.DataFrame) -> pl.DataFrame:
    """What each bill asks for: its lines and tax."""
    net = lines.group_by("order_no").agg(pl.col("billed_minor").sum())
    with_tax = orders.join(net, on="order_no", maintain_order="left").with_columns(
        (pl.col("billed_minor") * TAX_PERCENT // 100).alias("tax_minor")
    )
    return with_tax.with_columns((pl.col("billed_minor") + pl.col("tax_minor")).alias("amount_minor"))
