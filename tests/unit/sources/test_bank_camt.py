"""Bank statements and notifications: what balances, what does not, which money they tell of, and what stays inside."""

import json
from pathlib import Path

import polars as pl
import pytest

from adapters.sources import bank
from adapters.sources.bank import camt, camt_fields
from adapters.sources.source import Source, SourceSettings
from runtime.errors import ConfigError, FrameError
from runtime.schema import COLUMNS

KEY = b"a key for the tests"
NAMESPACE = "urn:iso:std:iso:20022:tech:xsd:camt.{message}.001.{version}"
CANARIES = ("Zoe Canary", "zoe@canary.example", "knee surgery", "12 Canary Lane", "DE89370400440532013000", "Z-77")


def opened(path: Path, **settings: object) -> Source:
    return Source(path, bank.FORMATS["camt"], SourceSettings(token_key=KEY, entity="hospital", **settings))


def events_of(source: Source) -> pl.DataFrame:
    return pl.concat([pl.DataFrame(schema=COLUMNS), *source.frames()])


def amount(text: str, currency: str = "USD", direction: str = "CRDT") -> str:
    return f'<Amt Ccy="{currency}">{text}</Amt><CdtDbtInd>{direction}</CdtDbtInd>'


def entry(money: str, ref: str = "", details: str = "", more: str = "", status: str = "BOOK") -> str:
    reference = f"<AcctSvcrRef>{ref}</AcctSvcrRef>" if ref else ""
    return (
        f"<Ntry>{money}{more}<Sts>{status}</Sts><BookgDt><Dt>2026-10-01</Dt></BookgDt><ValDt><Dt>2026-10-02</Dt></ValDt>"
        f"{reference}<BkTxCd><Prtry><Cd>165</Cd></Prtry></BkTxCd><NtryDtls>{details}</NtryDtls></Ntry>"
    )


def details(money: str = "", end_to_end: str = "", text: str = "") -> str:
    return (
        f"<TxDtls><Refs><EndToEndId>{end_to_end}</EndToEndId></Refs>{money}"
        f"<RmtInf><Ustrd>{text}</Ustrd></RmtInf></TxDtls>"
    )


def balance(code: str, money: str) -> str:
    return f"<Bal><Tp><CdOrPrtry><Cd>{code}</Cd></CdOrPrtry></Tp>{money}<Dt><Dt>2026-10-01</Dt></Dt></Bal>"


def statement(*content: str, name: str = "S1", account: str = "US-1") -> str:
    identity = (
        f"<Id>{name}</Id><CreDtTm>2026-10-03T08:00:00Z</CreDtTm><Acct><Id><Othr><Id>{account}</Id></Othr></Id></Acct>"
    )
    return f"<Stmt>{identity}{''.join(content)}</Stmt>"


def message(tmp_path: Path, *statements: str, version: str = "08", prolog: str = "") -> Path:
    namespace = NAMESPACE.format(message="053", version=version)
    path = tmp_path / "message.xml"
    header = "<GrpHdr><MsgId>M</MsgId><CreDtTm>2026-10-03T08:00:00Z</CreDtTm></GrpHdr>"
    body = f"<BkToCstmrStmt>{header}{''.join(statements)}</BkToCstmrStmt>"
    path.write_text(f'<?xml version="1.0"?>{prolog}<Document xmlns="{namespace}">{body}</Document>')
    return path


PUBLISHED = {  # statements, entries, credits, debits, opening, closing, what is set aside, events
    "genkgo_camt053.v2.all-balance-types.xml": (1, 1, 885, 0, 101, 404, ["balance_total"], 0),
    "genkgo_camt053.v2.five.decimals.xml": (1, 1, 885, 0, 1_815, 2_705, ["balance_total"], 0),
    "genkgo_camt053.v2.minimal.ultimate.xml": (1, 1, 885, 0, 1_815, -2_700, ["balance_currency"], 0),
    "genkgo_camt053.v2.minimal.xml": (1, 1, 885, 0, 1_815, -2_700, ["balance_currency"], 0),
    "genkgo_camt053.v2.multi.statement.xml": (2, 2, 885, 700, 4_515, 4_700, [], 2),
    "genkgo_camt053.v2.with-account-name.xml": (1, 1, 885, 0, None, None, [], 1),
    "genkgo_camt053.v2.with-party-ids.xml": (1, 1, 885, 0, 1_815, -2_700, ["balance_currency"], 0),
    "genkgo_camt053.v4.xml": (1, 1, 885, 0, 1_815, -2_700, ["balance_currency"], 0),
    "genkgo_camt053.v8.xml": (1, 1, 885, 0, 1_815, -2_700, ["balance_currency"], 0),
    "genkgo_camt054.v2.with-account-name.xml": (1, 1, 0, 20_000_000, None, None, [], 1),
    "genkgo_camt054.v2.xml": (1, 1, 0, 20_000_000, None, None, [], 1),
    "genkgo_camt054.v4.xml": (1, 1, 0, 20_000_000, None, None, ["batch_count"], 0),
    "genkgo_camt054.v8-with-UETR.xml": (1, 1, 0, 20_000_000, None, None, [], 1),
    "genkgo_camt054.v8-with-financial-institution.xml": (1, 1, 0, 20_000_000, None, None, [], 1),
    "genkgo_camt054.v8.xml": (1, 1, 0, 20_000_000, None, None, ["batch_count"], 0),
    "genkgo_camt53.only-Dt-with-DtTm.xml": (1, 0, 0, 0, 544_209, None, [], 0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_camt_published_file_gives_its_figures(shared_data, name: str) -> None:
    """Each published file gives its counts, sums and balances, and its events where it balances."""
    path = shared_data(f"camt053/{name}")
    statements, entries, credits_minor, debits_minor, opening, closing, codes, events = PUBLISHED[name]
    source = opened(path)
    assert events_of(source).height == events
    figures = source.total().figures
    assert (figures["statements"], figures["transactions"]) == (statements, entries)
    assert (figures["credits_minor"], figures["debits_minor"]) == (credits_minor, debits_minor)
    assert (figures.get("opening_minor"), figures.get("closing_minor")) == (opening, closing)
    assert [place.code for place in source.quarantined] == codes
    assert bank.recognise(path.read_bytes()[:4096]) == "camt"


@pytest.mark.parametrize("name", PUBLISHED)
def test_camt_published_file_agrees_with_another_parser(shared_data, name: str) -> None:
    """Where the samples come with what their own parser reads, its signed entries have our sums."""
    known = shared_data(f"camt053/{name}").with_suffix(".json")
    if not known.exists():
        pytest.skip("no result of the other parser beside it")
    entries = [int(e["getAmount"]["getAmount"]) for e in json.loads(known.read_text())["getEntries"] or []]
    source = opened(known.with_suffix(".xml"))
    events_of(source)
    figures = source.total().figures
    assert figures["transactions"] == len(entries)
    assert figures["credits_minor"] - figures["debits_minor"] == sum(entries)


def test_camt_claim_payment_is_known_by_its_trace(tmp_path: Path) -> None:
    """A credit whose remittance text carries a TRN is an EFT, by TRN02 and TRN03, on its value date."""
    text = "HCCLAIMPMT TRN*1*0012345678*1512345678\\"
    path = message(tmp_path, statement(entry(amount("540.00"), "BR1", details(end_to_end="E1", text=text))))
    (event,) = events_of(opened(path)).to_dicts()
    assert (event["kind"], event["amount_minor"], event["currency"]) == ("eft_received", 54_000, "USD")
    assert (event["document"], event["reference"], event["counterparty"]) == ("BR1", "0012345678", "1512345678")
    assert (str(event["effective_on"]), event["reason"], event["source"]) == ("2026-10-02", "165", "camt")
    assert event["occurred_at"].isoformat() == "2026-10-01T00:00:00+00:00"


def test_camt_card_payout_is_known_by_its_batch(tmp_path: Path) -> None:
    """A bank line of a card payout is a deposit that answers the payout; a payout taken back is a negative one."""
    text = "TX635094301XT batch 380, HospitalUS"
    content = [
        entry(amount("55308.07"), "B1", details(text=text)),
        entry(amount("12.00", direction="DBIT"), "B2", details(text=text)),
    ]
    events = events_of(opened(message(tmp_path, statement(*content))))
    assert events["kind"].to_list() == ["deposit_received"] * 2
    assert events["reference"].to_list() == ["HospitalUS/380"] * 2
    assert events["amount_minor"].to_list() == [5_530_807, -1_200]


def test_camt_other_money_is_named_by_its_references(tmp_path: Path) -> None:
    """What no pattern knows is money in or out, with the end-to-end id, and amounts are positive in both."""
    content = [
        entry(amount("10.00"), "B1", details(end_to_end="E1")),
        entry(amount("4.00", direction="DBIT"), "B2", details(end_to_end="NOTPROVIDED")),
    ]
    events = events_of(opened(message(tmp_path, statement(*content))))
    columns = events.select("kind", "document", "reference", "amount_minor").rows()
    assert columns == [("bank_credit_received", "B1", "E1", 1_000), ("bank_debit_made", "B2", None, 400)]


def test_camt_entry_that_takes_back_another_is_no_claim_payment(tmp_path: Path) -> None:
    """A reversal moves money as its indicator says, is marked, and is never an EFT though it repeats the trace."""
    back = details(text="TRN*1*77*1512345678")
    content = [
        entry(amount("5.00"), "B1", back, more="<RvslInd>true</RvslInd>"),
        entry(amount("5.00", direction="DBIT"), "B2", back, more="<RvslInd>true</RvslInd>"),
    ]
    events = events_of(opened(message(tmp_path, statement(*content))))
    assert events["kind"].to_list() == ["bank_credit_received", "bank_debit_made"]
    assert all(json.loads(text)["returned"] for text in events["attributes"])


def test_camt_batch_whose_details_tie_gives_an_event_for_each(tmp_path: Path) -> None:
    """A batch entry becomes its details, each with its own reference, where their amounts make up the entry."""
    parts = details(amount("3.00"), "E1") + details(amount("7.00"), "E2", "TRN*1*9*1512345678")
    events = events_of(opened(message(tmp_path, statement(entry(amount("10.00"), "B1", parts)))))
    assert events.select("kind", "reference", "amount_minor").rows() == [
        ("bank_credit_received", "E1", 300),
        ("eft_received", "9", 700),
    ]
    assert events["event_id"].n_unique() == 2


def test_camt_batch_whose_details_do_not_tie_is_set_aside_alone(tmp_path: Path) -> None:
    """A batch entry that its details don't make up is quarantined by its place; the statement's other entries go on."""
    wrong = details(amount("3.00"), "E1") + details(amount("6.99"), "E2")
    path = message(tmp_path, statement(entry(amount("1.00"), "B1"), entry(amount("10.00"), "B2", wrong)))
    source = opened(path)
    assert events_of(source)["document"].to_list() == ["B1"]
    assert source.quarantined == [(1, 2, 0, "batch_total")]
    assert source.total().figures["credits_minor"] == 1_100


def test_camt_statement_whose_balances_do_not_tie_is_set_aside_whole(tmp_path: Path) -> None:
    """Opening, credits and debits must give the closing balance; a statement where they don't has no events."""
    opening, moved = balance("OPBD", amount("100.00")), entry(amount("8.00", direction="DBIT"), "B1")
    wrong = statement(opening, balance("CLBD", amount("91.99")), moved, name="wrong")
    right = statement(opening, balance("CLBD", amount("92.00")), moved, name="right")
    source = opened(message(tmp_path, wrong, right))
    assert events_of(source).height == 1
    assert source.quarantined == [(1, 0, 0, "balance_total")]
    assert source.total().figures["debits_minor"] == 1_600


def test_camt_pending_entry_is_not_booked(tmp_path: Path) -> None:
    """An entry that is only announced makes no event and is not part of the balance; both writings are read."""
    content = [
        balance("OPBD", amount("0.00")),
        balance("CLBD", amount("1.00")),
        entry(amount("1.00"), "B1", status="<Cd>BOOK</Cd>"),
        entry(amount("9.00"), "B2", status="<Cd>PDNG</Cd>"),
        entry(amount("9.00"), "B3", status="PDNG"),
    ]
    source = opened(message(tmp_path, statement(*content)))
    assert events_of(source)["document"].to_list() == ["B1"]
    assert (source.total().figures["transactions"], source.total().figures["unbooked"]) == (1, 2)


@pytest.mark.parametrize("status", ["<Prtry>Booked</Prtry>", "<Cd>B00K</Cd>", ""])
def test_camt_entry_of_an_unknown_status_sets_its_statement_aside(tmp_path: Path, status: str) -> None:
    """An entry that is neither booked nor known to be only announced may be money: it is never just left out."""
    content = [entry(amount("1.00"), "B1"), entry(amount("2.00"), "B2", status=status)]
    source = opened(message(tmp_path, statement(*content)))
    assert events_of(source).is_empty()
    assert source.quarantined == [(1, 2, 0, "entry_status")]


@pytest.mark.parametrize(
    ("money", "code"),
    [
        ('<Amt Ccy="USD">1.001</Amt><CdtDbtInd>CRDT</CdtDbtInd>', "amount"),
        ('<Amt Ccy="USD">1e2</Amt><CdtDbtInd>CRDT</CdtDbtInd>', "amount"),
        ('<Amt Ccy="USD">-1.00</Amt><CdtDbtInd>CRDT</CdtDbtInd>', "amount"),
        ("<Amt>1.00</Amt><CdtDbtInd>CRDT</CdtDbtInd>", "amount"),
        ('<Amt Ccy="JPY">1.5</Amt><CdtDbtInd>CRDT</CdtDbtInd>', "amount"),
        ('<Amt Ccy="USD">1.00</Amt><CdtDbtInd>BOTH</CdtDbtInd>', "direction"),
    ],
)
def test_camt_entry_without_exact_amount_sets_its_statement_aside(tmp_path: Path, money: str, code: str) -> None:
    """A statement with an amount that is none of its currency can't be summed, and is quarantined at that entry."""
    path = message(tmp_path, statement(entry(amount("1.00"), "B1"), entry(money, "B2")))
    source = opened(path)
    assert events_of(source).is_empty()
    assert source.quarantined == [(1, 2, 0, code)]


def test_camt_amounts_keep_their_currency_s_decimals(tmp_path: Path) -> None:
    """Minor units are those of each currency, and zeros beyond them are no decimals."""
    content = [entry(amount(*money), f"B{i}") for i, money in enumerate([("2700", "JPY"), ("1.5", "KWD"), ("8.850",)])]
    assert events_of(opened(message(tmp_path, statement(*content))))["amount_minor"].to_list() == [2_700, 1_500, 885]


def test_camt_announced_totals_must_be_the_entries_totals(tmp_path: Path) -> None:
    """A summary of entries that the entries do not keep sets the statement aside."""
    summary = "<TxsSummry><TtlNtries><NbOfNtries>2</NbOfNtries></TtlNtries></TxsSummry>"
    source = opened(message(tmp_path, statement(summary, entry(amount("1.00"), "B1"))))
    assert events_of(source).is_empty()
    assert source.quarantined == [(1, 0, 0, "summary_count")]


def test_camt_same_entry_in_another_message_is_the_same_event(tmp_path: Path) -> None:
    """With the bank's reference, an entry has one id in whatever statement it comes, and the same content."""
    once = entry(amount("1.00"), "B1", details(end_to_end="E1"))
    first = events_of(opened(message(tmp_path, statement(once, name="S1"))))
    again = events_of(opened(message(tmp_path, statement(entry(amount("2.00"), "B2"), once, name="S2"), version="02")))
    assert again.filter(document="B1").equals(first)


def test_camt_entries_whose_reference_says_that_there_is_none_stay_apart(tmp_path: Path) -> None:
    """NONREF names no entry: equal payments of two statements are two, as without any reference."""
    same = entry(amount("1.00"), "NONREF")
    events = events_of(opened(message(tmp_path, statement(same, name="S1"), statement(same, name="S2"))))
    assert events["event_id"].n_unique() == 2


def test_camt_equal_entries_stay_apart_however_the_file_is_cut(tmp_path: Path) -> None:
    """Two entries that look the same are two events, with ids that don't depend on the frames' size."""
    same = entry(amount("1.00"), details=details(end_to_end="E1"))
    path = message(tmp_path, statement(same, same, same))
    whole, cut = events_of(opened(path)), events_of(opened(path, rows_max=1))
    assert whole["event_id"].n_unique() == 3
    assert cut.equals(whole)


@pytest.mark.parametrize("version", ["02", "04", "06", "08", "13"])
def test_camt_every_version_of_the_namespace_is_read(tmp_path: Path, version: str) -> None:
    """The version in the namespace changes nothing."""
    path = message(tmp_path, statement(entry(amount("1.00"), "B1")), version=version)
    assert events_of(opened(path))["amount_minor"].to_list() == [100]


def test_camt_with_entity_definitions_is_refused(tmp_path: Path) -> None:
    """A document type definition is refused before anything is read, so no entity can grow or fetch a file."""
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
    path = message(tmp_path, statement(entry(amount("1.00"), "&b;")), prolog=bomb)
    with pytest.raises(FrameError, match="document type definition"):
        list(opened(path).frames())


@pytest.mark.parametrize(
    "content",
    [
        "<Document><Stmt/></Document>",
        '<Invoice xmlns="urn:oasis:names"><Bal/></Invoice>',
        '<Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"><BkToCstmrStmt><Stmt><Ntry>',
        "",
    ],
)
def test_camt_what_is_no_such_message_is_refused(tmp_path: Path, content: str) -> None:
    """Another document, or one that ends early, is refused whole, and the error holds no content."""
    path = tmp_path / "other.xml"
    path.write_text(content)
    with pytest.raises(FrameError, match="not a|not well-formed"):
        list(opened(path).frames())


UNKNOWN = "<Xtra>" + "<Deep>text</Deep>" * 100 + "</Xtra>"


def test_camt_elements_that_nobody_knows_do_not_stay(tmp_path: Path, monkeypatch) -> None:
    """What stands between entries is forgotten with each of them, and details of a batch are while it is read."""
    monkeypatch.setattr(camt, "HELD_BYTES_MAX", 200_000)
    siblings = []

    def children(element):
        siblings.append(len(list(element.itersiblings(preceding=True))))
        return camt_fields.children(element)

    monkeypatch.setattr(camt, "children", children)
    many = [f"<!-- a note -->{UNKNOWN}{entry(amount('1.00'), f'B{i}')}" for i in range(1_000)]
    batch = entry(amount("1000.00"), "B", details(amount("1.00")).replace("<RmtInf>", f"{UNKNOWN}<RmtInf>") * 1_000)
    assert events_of(opened(message(tmp_path, statement(*many, batch)))).height == 2_000
    assert max(siblings) < 10


@pytest.mark.parametrize("inside", ["statement", "entry", "details"])
def test_camt_part_without_end_is_refused_before_it_fills_memory(tmp_path: Path, monkeypatch, inside: str) -> None:
    """Of anything that does not end within the limit no more is held: the file is refused, and nothing of it sent."""
    monkeypatch.setattr(camt, "HELD_BYTES_MAX", 100_000)
    endless = UNKNOWN * 200
    forms = {
        "statement": statement(endless),
        "entry": statement(entry(amount("1.00"), "B1", more=endless)),
        "details": statement(entry(amount("1.00"), "B1", details(endless))),
    }
    with pytest.raises(FrameError, match="too_large"):
        list(opened(message(tmp_path, forms[inside])).frames())


def test_camt_count_of_too_many_digits_is_none(tmp_path: Path) -> None:
    """A count that no batch can have is not read, and ends nothing."""
    batch = f"<Btch><NbOfTxs>{'9' * 5_000}</NbOfTxs></Btch>{details()}"
    assert events_of(opened(message(tmp_path, statement(entry(amount("1.00"), "B1", batch))))).height == 1


def test_camt_people_and_free_text_stay_inside(tmp_path: Path) -> None:
    """Names, addresses, accounts, private ids and remittance texts are in no event, fault or quarantine."""
    person = (
        "<TxDtls><RltdPties><Dbtr><Pty><Nm>Zoe Canary</Nm><PstlAdr><AdrLine>12 Canary Lane</AdrLine></PstlAdr>"
        "<Id><PrvtId><Othr><Id>Z-77</Id></Othr></PrvtId></Id></Pty></Dbtr>"
        "<DbtrAcct><Id><IBAN>DE89370400440532013000</IBAN></Id></DbtrAcct></RltdPties>"
        "<RmtInf><Ustrd>knee surgery zoe@canary.example</Ustrd></RmtInf></TxDtls>"
    )
    bad = entry('<Amt Ccy="USD">Zoe Canary</Amt><CdtDbtInd>CRDT</CdtDbtInd>', "B9", person)
    account = "DE89370400440532013000"
    path = message(
        tmp_path,
        statement(entry(amount("1.00"), "B1", person), account=account),
        statement(bad, name="S2", account=account),
    )
    source = opened(path)
    events = events_of(source)
    held = f"{events.rows()} {source.faults} {source.quarantined} {source.total()}"
    assert events.height == 1 and len(source.quarantined) == 1
    assert not [canary for canary in CANARIES if canary in held]


def test_camt_text_in_place_of_a_type_code_stays_inside(tmp_path: Path) -> None:
    """The bank's own code is the reason of its event; what does not look like a code is no reason."""
    plain = statement(entry(amount("1.00"), "B1"))
    texts = {"NTRF+166+9002": "NTRF+166+9002", "Zoe Canary": None, "knee surgery": None, "X" * 36: None}
    for text, reason in texts.items():
        path = message(tmp_path, plain.replace("<Cd>165</Cd>", f"<Cd>{text}</Cd>"))
        assert events_of(opened(path))["reason"].to_list() == [reason]


def test_camt_card_number_in_a_reference_leaves_as_a_token(tmp_path: Path) -> None:
    """A valid card number that somebody used as a reference is never handed out; a number that is none goes on."""
    content = [
        entry(amount("1.00"), "B1", details(end_to_end="4111 1111 1111 1111")),
        entry(amount("1.00"), "B2", details(end_to_end="4111111111111112")),
    ]
    card, other = events_of(opened(message(tmp_path, statement(*content))))["reference"]
    assert len(card) == 16 and not card.isdecimal()
    assert other == "4111111111111112"


def test_camt_without_token_key_is_refused(tmp_path: Path) -> None:
    """Without a key nothing is read, as an account's token could be guessed."""
    path = message(tmp_path, statement(entry(amount("1.00"), "B1")))
    with pytest.raises(ConfigError, match="token_key"):
        list(Source(path, bank.FORMATS["camt"], SourceSettings()).frames())
