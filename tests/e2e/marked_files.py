"""A file of every format, with marked identifiers of people wherever the format has room for them, good and broken.

Owns what is planted. Each good file holds events that are accepted; a broken one is the same file cut off, or with a
name where an amount should be, or with a text before it that makes it no file of any format.
"""

import csv
import io
import json
import re
from pathlib import Path

import polars as pl
from unit.sources import test_bank_bai2 as bai2
from unit.sources import test_bank_camt as camt
from unit.sources import test_bank_nacha as nacha
from unit.sources import test_cards_adyen as adyen
from unit.sources import test_cards_stripe as stripe
from unit.sources import test_ubl as ubl
from unit.sources import test_x12_phi as x12
from unit.sources import test_x12_procurement as procurement

from adapters import sources

# All of them long enough not to stand in random bytes by chance. They are looked for in any case of letters.
MARKS = ("canary", "4111111111111111", "987654321012", "de89370400440532013000", "knee surgery")
WITNESS = "WITNESS1"  # a payment's trace number: travels by agreement, so it must be found wherever events are stored
ENTITY = "synthea"  # takes any facility
PERSON = "Zoe Canary zoe@canary.example 12 Canary Lane MRN-CANARY-77"
AT_MS = 1_790_000_000_000


def _camt(folder: Path) -> Path:
    party = (
        "<TxDtls><RltdPties><Dbtr><Pty><Nm>Zoe Canary</Nm><PstlAdr><AdrLine>12 Canary Lane</AdrLine></PstlAdr>"
        "<Id><PrvtId><Othr><Id>CANARY-77</Id></Othr></PrvtId></Id></Pty></Dbtr>"
        "<DbtrAcct><Id><IBAN>DE89370400440532013000</IBAN></Id></DbtrAcct></RltdPties>"
        "<RmtInf><Ustrd>knee surgery zoe@canary.example</Ustrd></RmtInf></TxDtls>"
    )
    booked = camt.entry(camt.amount("1.00"), "B1", party)
    return camt.message(folder, camt.statement(booked, account="DE89370400440532013000"))


def _bai2(folder: Path) -> Path:
    records = ["16,165,100,,BR1,,Zoe Canary knee surgery/", "88,PAYER: Zoe Canary", "16,951,1,,B,,Zoe Canary/"]
    return bai2.file(folder, bai2.account(*records, total_minor=101, name="987654321012"))


def _nacha(folder: Path) -> Path:
    person = nacha.entry(9, identification="MRN-CANARY-77")
    return nacha.file(folder, nacha.batch(person, nacha.addenda("knee surgery ZOE CANARY"), entry_class="PPD"))


def _stripe(folder: Path) -> Path:
    private = {"description": PERSON, "metadata": "MRN-CANARY-77"}
    rows = [
        stripe.row(1, "10.00", "0.00", "10.00", source_id="Zoe Canary", charge_id="zoe@canary.example", **private),
        stripe.row(2, "-5.00", "0.00", "-5.00", "dispute", payout="po_2", dispute_reason="Zoe Canary", **private),
        stripe.row(3, "1.00", "0.00", "1.00", payout="po_3", trace="4111 1111 1111 1111", **private),
    ]
    return stripe.report(folder, rows)


def _adyen(folder: Path) -> Path:
    usd = {"currency": "USD", "gross_currency": "USD"}
    rows = [
        adyen.settled(reference="MRN-CANARY-77", modification="Zoe Canary", **usd),
        adyen.row("Fee", psp="4111 1111 1111 1111", modification="Zoe Canary", net_debit="1.00", **usd),
        adyen.payout("3.88", **usd),
    ]
    return adyen.report(folder, rows)


def _ubl(folder: Path) -> Path:
    person = "<a:Contact><b:Name>Zoe Canary</b:Name><b:ElectronicMail>zoe@canary.example</b:ElectronicMail></a:Contact>"
    customer = f"<a:AccountingCustomerParty><a:Party>{person}</a:Party></a:AccountingCustomerParty>"
    body = f"<b:Note>knee surgery of Zoe Canary</b:Note>{customer}{ubl.total('10.00')}{ubl.billed('10.00')}"
    return ubl.written(folder, ubl.document("Invoice", body, number="UBL-7"))


def _procurement(folder: Path) -> Path:
    text = procurement.enveloped(
        procurement.invoice(
            "NTE*GEN*knee surgery Zoe Canary",
            "N1*ST*Zoe Canary*92*CANARY-77",
            "N3*12 Canary Lane",
            "PER*IC*Zoe Canary*TE*CANARY-55",
            "IT1*1*100*EA*1.00",
            "PID*F****knee surgery Zoe Canary",
            "TDS*10000",
            "CTT*1*100",
        )
    )
    return _written(folder / "one.edi", text.encode())


def _synthea(folder: Path) -> Path:
    sample = Path(sources.__file__).parent / "samples" / "claims_transactions.csv"
    rows = list(csv.DictReader(sample.read_text().splitlines()))
    for row in rows:
        private = {"NOTES": PERSON, "LINENOTE": "knee surgery", "DIAGNOSISREF1": "CANARY"}
        row |= private | {name: f"CANARY-{row[name]}" for name in ("PATIENTID", "CLAIMID", "PATIENTINSURANCEID")}
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return _written(folder / "ledger.csv", out.getvalue().encode())


def event(event_id: str, **columns: object) -> dict:
    """A charge in Penstock's own columns, which hold tokens instead of people."""
    given = {"source": "ehr", "kind": "charge_posted", "entity": ENTITY, "facility": "clinic", "currency": "USD"}
    return given | {"event_id": event_id, "account": "token-1", "amount_minor": 100, "occurred_at": AT_MS} | columns


# Rows that no door lets in, with a mark in place of what each should hold.
REFUSED = (
    {"kind": "Zoe Canary"},
    {"entity": "Zoe Canary"},
    {"currency": "CANARY"},
    {"department": "Zoe\x07Canary"},
    {"reason": "knee surgery " * 30},
    {"amount_minor": 10**15, "document": "Zoe Canary"},
    {"facility": None, "reference": "Zoe Canary"},
)
# Lines that are no row at all.
UNREADABLE = (
    json.dumps(event("u1", amount_minor="Zoe Canary")),
    json.dumps(event("u2", occurred_at="Zoe Canary")),
    json.dumps(event("u3") | {"Zoe Canary": "knee surgery"}),
    json.dumps(event("u4") | {"patient": {"name": "Zoe Canary"}}),
    '{"event_id": "Zoe Canary',
    "Zoe Canary, 12 Canary Lane",
)


def _jsonl(folder: Path) -> Path:
    refused = [json.dumps(event(f"r{n}") | columns) for n, columns in enumerate(REFUSED)]
    lines = [json.dumps(event("j1")), *refused, *UNREADABLE]
    return _written(folder / "events.jsonl", "\n".join(lines).encode())


def _csv(folder: Path) -> Path:
    rows = [event("c1"), event("c2", amount_minor="Zoe Canary"), event("c3", occurred_at="Zoe Canary")]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys([*rows[0], *(name for one in REFUSED for name in one)])))
    writer.writeheader()
    writer.writerows([*rows, *(event(f"cr{n}") | columns for n, columns in enumerate(REFUSED))])
    return _written(folder / "events.csv", out.getvalue().encode())


def rows_frame(prefix: str) -> pl.DataFrame:
    """Good and refused rows as a frame."""
    rows = [event(f"{prefix}0"), *(event(f"{prefix}r{n}") | columns for n, columns in enumerate(REFUSED))]
    return pl.DataFrame(rows, infer_schema_length=None)


def _parquet(folder: Path) -> Path:
    rows_frame("p").write_parquet(folder / "events.parquet")
    return folder / "events.parquet"


def _arrow(folder: Path) -> Path:
    rows_frame("a").write_ipc(folder / "events.arrow")
    return folder / "events.arrow"


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


_TABLES = {
    "camt": _camt,
    "bai2": _bai2,
    "nacha": _nacha,
    "stripe": _stripe,
    "adyen": _adyen,
    "ubl": _ubl,
    "x12_procurement": _procurement,
    "synthea": _synthea,
    "jsonl": _jsonl,
    "csv": _csv,
    "parquet": _parquet,
    "arrow": _arrow,
}


def good_files(folder: Path) -> dict[str, Path]:
    """A file of each format."""
    made = {}
    for name, text in x12.FILES.items():
        made[name] = _written(folder / f"good.{name}", text.replace("TRACE1", WITNESS).encode())
    for name, make in _TABLES.items():
        (own := folder / name).mkdir()
        made[name] = make(own)
    return made


def broken_files(folder: Path, good: dict[str, Path]) -> dict[str, Path]:
    """Three broken ones of each good file: cut off, with a name for an amount, with a text before it; and two more."""
    made = {}
    for name, path in good.items():
        content = path.read_bytes()
        broken = {
            "cut": content[: len(content) * 2 // 3],
            "amount": _with_a_name_for_an_amount(content),
            "before": b"Zoe Canary, 12 Canary Lane\n" + content,
        }
        for how, damaged in broken.items():
            made[f"{name} {how}"] = _written(folder / f"{how}-{path.name}-{name}", damaged)
    made["csv without header"] = _written(folder / "headless.csv", b"Zoe Canary,12 Canary Lane,100\nB,C,2\n")
    made["json keys"] = _written(folder / "keys.jsonl", json.dumps({"Zoe Canary": 1}).encode() + b"\n")
    return made


def _with_a_name_for_an_amount(content: bytes) -> bytes:
    """The content with a name in place of a number in its middle."""
    numbers = list(re.finditer(rb"(?<=[*,>\"])\d+(\.\d\d)?(?=[*,<\"])", content[200:])) or [re.match(rb"", content)]
    number = numbers[len(numbers) // 2]
    return content[: 200 + number.start()] + b"Zoe Canary" + content[200 + number.end() :]
