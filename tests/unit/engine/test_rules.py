"""The rulebook: the standard one reads, and each kind of mistake is named with its table."""

import pytest
from unit.engine.builders import RULEBOOK, STANDARD

from runtime import schema
from runtime.errors import RulebookError
from runtime.ledger.links import Pair
from runtime.ledger.rule_file import parse_rulebook
from runtime.ledger.rules import Kind, Rule, Rulebook

PLAIN = 'flow = "x"\nscope = "entity"\nmode = "summary"\n'
NONE = PLAIN.replace("summary", "none")
CLAIM = 'links = { enters = { register = "claims", part = "paid", key = "document" } }\n'
OWNED = '[kind.odd.links]\nowned_by = { register = "card_owners", key = "document" }\n'
TELLING = OWNED.replace("owned_by", "tells_owner")
INVERSE = '[kind.odd.links]\ninverts = { register = "claim_postings", key = "document" }'
NOTED = 'noted_in = { register = "denials", part = "adjusted", key = "document" }\n'
TWO_ITEMS = (
    'consumes = { item = "dispute", key = "document" }\n'
    'releases = { item = "payable", key = "document", hold = "approval" }\n'
)
TWO_GROUPS = 'member_of = { group = "payout", key = "document" }\ncloses = { group = "remittance", key = "document" }\n'
BILLED = 'opens = { item = "payable", key = "document" }\n'
CLOSED = 'closes = { group = "bill", key = "reference" }\n'
POST = 'post = [{ debit = "CASH", credit = "AR" }]\n'


def kind(body: str, name: str = "odd") -> str:
    """A kind's table, to be added to the standard rulebook."""
    return f"\n[kind.{name}]\n{body}"


def item(name: str, unopened: str = "unmatched_dispute") -> str:
    """An item's table."""
    fixed = 'use = "part"\nwait_days = 1\nunused = "expires"\ndiffers = "allocation_exceeded"\n'
    return f'\n[item.{name}]\n{fixed}unopened = "{unopened}"\n'


def undeclared(ref: str) -> tuple[str, str, str]:
    """A kind that names the register `ghosts`, which is none."""
    return kind(PLAIN + POST + 'requires = ["document"]\n' + ref), "register.ghosts", "not declared"


MISTAKES = {
    "pair without credit": (kind(PLAIN + 'post = [{ debit = "AR" }]'), "kind.odd", "unbalanced"),
    "pair without debit": (kind(PLAIN + 'post = [{ credit = "AR" }]'), "kind.odd", "unbalanced"),
    "pair against itself": (kind(PLAIN + 'post = [{ debit = "AR", credit = "AR" }]'), "kind.odd", "itself"),
    "unknown column": (kind(PLAIN + POST + 'requires = ["colour"]'), "kind.odd", "'colour', which is not a column"),
    "unknown field": (kind(PLAIN + POST + 'colour = "red"'), "kind.odd", "colour"),
    "unknown mode": (kind(PLAIN.replace("summary", "later") + POST), "kind.odd", "later"),
    "unknown dimension": (kind(PLAIN + POST + 'keep = ["account"]'), "kind.odd", "'account' is no dimension"),
    "summary without post": (kind(PLAIN), "kind.odd", "posts something"),
    "none with post": (kind(PLAIN.replace("summary", "none") + POST), "kind.odd", "posts nothing"),
    "immediate without entry_by": (kind(PLAIN.replace("summary", "immediate") + POST), "kind.odd", "needs entry_by"),
    "summary with entry_by": (
        kind(PLAIN + POST + 'requires = ["document"]\nentry_by = "document"'),
        "kind.odd",
        "entry_by, and only it",
    ),
    "entry_by not required": (
        kind(PLAIN.replace("summary", "immediate") + POST + 'entry_by = "document"'),
        "kind.odd",
        "entry_by 'document' is not required",
    ),
    "facility not required": (kind(PLAIN.replace("entity", "facility") + POST), "kind.odd", "scope facility"),
    "key not required": (
        kind(PLAIN + POST + 'links = { consumes = { item = "dispute", key = "document" } }'),
        "kind.odd",
        "keyed by 'document'",
    ),
    "unknown item": (
        kind(PLAIN + POST + 'requires = ["document"]\nlinks = { consumes = { item = "ghost", key = "document" } }'),
        "item.ghost",
        "not declared",
    ),
    "unknown group": (
        kind(PLAIN + POST + 'requires = ["document"]\nlinks = { member_of = { group = "ghost", key = "document" } }'),
        "group.ghost",
        "not declared",
    ),
    "item that nobody opens": (item("orphan"), "item.orphan", "no kind opens it"),
    "group that nobody closes": (
        '\n[group.orphan]\nwait_days = 1\nmismatch = "payout_mismatch"',
        "group.orphan",
        "no kind closes it",
    ),
    "undeclared exception": (item("orphan", unopened="nobody"), "exception.nobody", "not declared"),
    "amount that is no sum": (
        kind(PLAIN + 'post = [{ debit = "CASH", credit = "AR", amount = "amount_minor * 2" }]'),
        "kind.odd",
        "names joined by + and -",
    ),
    "amount that nothing finds": (
        kind(PLAIN + 'post = [{ debit = "CASH", credit = "AR", amount = "amount_minor - recieved" }]'),
        "kind.odd",
        "'recieved' is neither its own",
    ),
    "amount that another register finds": (
        kind(PLAIN + 'post = [{ debit = "CASH", credit = "AR", amount = "based" }]\nrequires = ["document"]\n' + CLAIM),
        "kind.odd",
        "'based' is neither its own",
    ),
    "unknown register": undeclared(CLAIM.replace("claims", "ghosts")),
    "part that its register does not know": (
        kind(PLAIN + POST + 'requires = ["document"]\n' + CLAIM.replace('"paid"', '"payed"')),
        "kind.odd",
        "enters claims as 'payed'; it knows accepted, acknowledged, adjudicated",
    ),
    "register to be asked for what is taken back that does not know": (
        kind(PLAIN + POST + 'requires = ["document"]\n' + INVERSE.replace("claim_postings", "denials")),
        "kind.odd",
        "inverts by denials, which is not of type inverses",
    ),
    "register to be asked for what is taken back that is none": undeclared(INVERSE.replace("claim_postings", "ghosts")),
    "register to be asked for an owner that does not know": (
        kind(PLAIN + POST + 'requires = ["document"]\n' + OWNED.replace("card_owners", "denials")),
        "kind.odd",
        "is owned by denials, which is not of type owners",
    ),
    "register to be told an owner that does not know": (
        kind(PLAIN + POST + 'requires = ["document"]\n' + TELLING.replace("card_owners", "denials")),
        "kind.odd",
        "tells owners to denials, which is not of type owners",
    ),
    "register to be asked for an owner that is none": undeclared(OWNED.replace("card_owners", "ghosts")),
    "owner of a key that is not required": (kind(PLAIN + POST + OWNED), "kind.odd", "is keyed by 'document'"),
    "register to be noted in that is none": undeclared(NOTED.replace("denials", "ghosts")),
    "register to be noted in by a column that may be empty": (kind(PLAIN + POST + NOTED), "kind.odd", "'document'"),
    "refined without a table": (
        kind(PLAIN + POST + 'refined_by = "remarks"'),
        "kind.odd",
        "is refined, but no table in classify",
    ),
    "exception that is due in hours and days": (
        '\n[exception.odd]\nowner = "revenue_cycle"\nseverity = "low"\naction = "none"\n'
        "triage_h = 1\nresolve_h = 24\nresolve_days = 1\n",
        "exception.odd",
        "resolve_h or resolve_days must be above zero, and only one of them",
    ),
    "register of an unknown type": ('\n[register.odd]\ntype = "oracle"\n', "register.odd", "oracle"),
    "register that holds no item": (
        '\n[register.odd]\ntype = "bills"\nsuspect = "denial"\nreview = "denial"\npayable = "ghost"\n'
        'alias_policy = "SUPPLIER_ALIAS"\nkeep_days = 1\n',
        "register.odd",
        "holds 'ghost', no item",
    ),
    "register that derives no kind": (
        '\n[register.odd]\ntype = "candidates"\nderives = "ghost"\nseveral = "denial"\n'
        "decide_after_h = 1\nbusiness_days = 1\nkeep_days = 1\n",
        "register.odd",
        "derives 'ghost', which is no derived kind",
    ),
    "register with an undeclared exception": (
        '\n[register.odd]\ntype = "takebacks"\nbaseless = "nobody"\ncodes = []\n',
        "exception.nobody",
        "not declared",
    ),
    "derived kind that is none": (
        kind(PLAIN + POST + 'derives = [{ kind = "charge_posted" }]'),
        "kind.odd",
        "derives 'charge_posted', which is no derived kind",
    ),
    "derived for a counterparty that may be empty": (
        kind(PLAIN + POST + 'derives = [{ kind = "intercompany_due", to = "counterparty" }]'),
        "kind.odd",
        "counterparty, which it does not require",
    ),
    "derived where no column is": (
        kind(PLAIN + POST + 'derives = [{ kind = "account_settled", where = ["colour"] }]'),
        "kind.odd",
        "'colour', which is not a column",
    ),
    "two items to wait for": (
        kind(PLAIN + POST + 'requires = ["document"]\n[kind.odd.links]\n' + TWO_ITEMS),
        "kind.odd",
        "consumes one item and releases another",
    ),
    "two groups to wait for": (
        kind(PLAIN + POST + 'requires = ["document"]\n[kind.odd.links]\n' + TWO_GROUPS),
        "kind.odd",
        "belongs to a group and closes one",
    ),
    "item once booked that is opened without a group": (
        kind(PLAIN + POST + 'requires = ["document"]\n[kind.odd.links]\n' + BILLED),
        "item.payable",
        "once_booked 'bill': who opens it must close that group by the same column",
    ),
    "item once booked that is opened beside another group": (
        kind(PLAIN + POST + 'requires = ["document"]\n[kind.odd.links]\n' + BILLED + CLOSED.replace("bill", "payout")),
        "item.payable",
        "once_booked 'bill'",
    ),
    "item once booked that is opened under another key": (
        kind(PLAIN + POST + 'requires = ["document", "reference"]\n[kind.odd.links]\n' + BILLED + CLOSED),
        "item.payable",
        "once_booked 'bill'",
    ),
    "alias of what nothing tells apart": (
        item("orphan") + 'alias = "PAYER_ALIAS"\n',
        "item.orphan",
        "alias 'PAYER_ALIAS' needs apart_by",
    ),
    "alias that is no policy": (
        item("orphan") + 'apart_by = "counterparty"\nalias = "GHOST"\n',
        "item.orphan",
        "alias 'GHOST' needs apart_by, and must be a policy",
    ),
    "told-twice exception that nobody declared": (
        item("orphan") + 'spent = "nobody"\n',
        "exception.nobody",
        "declared",
    ),
    "announced exception that nobody declared": (
        item("orphan") + 'announces = "nobody"\n',
        "exception.nobody",
        "not declared",
    ),
    "table that is not there": (kind(PLAIN + 'classify = "ghost"'), "kind.odd", "classify 'ghost' is no table"),
    "case without a table": (
        kind(PLAIN + POST + '[kind.odd.case.x]\nmode = "none"\n'),
        "kind.odd",
        "has cases, but no table",
    ),
    "class without a case": (kind(NONE + 'classify = "estimate"'), "kind.odd", "has no case"),
    "posting beside its cases": (
        kind(PLAIN + POST + 'classify = "refund_failure"\n[kind.odd.case.card]\n[kind.odd.case.check]\n'),
        "kind.odd",
        "posts by its cases, and can't post beside them",
    ),
    "role by payer with other cases": (
        '\n[role.ODD]\nby = "payer"\ncases = { insurer = "AR_INS" }\n',
        "role.ODD",
        "the cases insurer and patient",
    ),
    "role by policy without default": (
        '\n[role.ODD]\nby = "policy"\npolicy = "POLICY_X"\ncases = { A = "CASH" }\n',
        "role.ODD",
        "a default that is one of its cases",
    ),
    "exception of a role that nobody declared": (
        '\n[role.ODD]\nby = "known"\nmissing = "nobody"\n',
        "exception.nobody",
        "not declared",
    ),
    "policy without default": ("\n[policy.ODD]\n", "policy.ODD", "default"),
    "unknown section": ("\n[colour.red]\nx = 1", "colour", "unknown section"),
    "TOML syntax": ("\n[kind.odd\n", "rule file", "not TOML"),
}


@pytest.mark.parametrize(("addition", "table", "phrase"), MISTAKES.values(), ids=MISTAKES)
def test_rulebook_with_a_mistake_names_its_table(addition, table, phrase):
    """A mistake is refused as a RulebookError that names the table at fault and what is wrong."""
    with pytest.raises(RulebookError) as refused:
        parse_rulebook(STANDARD + addition)
    assert table in str(refused.value)
    assert phrase in str(refused.value)


def test_rulebook_without_built_in_exception_names_it():
    """The exceptions that the runtime itself raises must be declared."""
    with pytest.raises(RulebookError, match=r"exception\.event_conflict: not declared"):
        parse_rulebook(STANDARD.replace("[exception.event_conflict]", "[exception.event_clash]"))


def test_rulebook_with_section_that_is_no_table_names_it():
    """A section that holds a value in place of tables is a mistake of the file, not of the reader."""
    with pytest.raises(RulebookError, match="kind: expected tables"):
        parse_rulebook("kind = 1")


def test_rulebook_with_two_mistakes_names_both():
    """All mistakes are told at once, so that a file is put right in one round."""
    with pytest.raises(RulebookError) as refused:
        parse_rulebook(STANDARD + kind(PLAIN, "odd") + kind(PLAIN, "even"))
    assert "kind.odd" in str(refused.value)
    assert "kind.even" in str(refused.value)


def test_rulebook_standard_file_declares_all_flows():
    """The standard rulebook reads, with the billing and the card flow and every exception with an owner."""
    assert {kind.flow for kind in RULEBOOK.kind.values()} >= {"billing", "card"}
    assert set(RULEBOOK.item) >= {"authorisation", "capture", "refund", "dispute", "payout_cash"}
    assert set(RULEBOOK.group) >= {"payout"}
    assert all(type.triage_h + type.triage_days > 0 for type in RULEBOOK.exception.values())


def test_rulebook_kind_terms_carry_requirements_and_sign():
    """Validation learns of each kind what it requires and whether its amount may be negative."""
    terms = RULEBOOK.kind_terms()
    assert terms["charge_posted"] == schema.KindTerms(requires=("facility", "account"), sign="positive")
    assert terms["adjustment_posted"].sign == "any"


def test_rulebook_scopes_send_cards_to_the_entity():
    """All kinds of the card flow are scoped to the entity; of billing, only a period's true-ups are."""
    scopes = RULEBOOK.scopes()
    assert {scopes[name] for name, kind in RULEBOOK.kind.items() if kind.flow == "card"} == {"entity"}
    billing = {name for name, kind in RULEBOOK.kind.items() if kind.flow == "billing" and scopes[name] == "entity"}
    assert billing == {"true_up_requested", "true_up_approved"}


def test_pairs_of_a_kind_whose_cases_post_differently_are_none():
    """A kind's control totals are worth its amount times its pairs only where each of its cases posts as many."""
    pair = Pair(debit="CASH", credit="AR")
    cases = {"nothing": Rule(), "one": Rule(post=(pair,)), "two": Rule(post=(pair, pair))}
    alike, mixed = ({name: cases[name] for name in names} for names in (("nothing", "two"), ("one", "two")))
    kinds = {name: Kind(flow="x", scope="entity", case=case) for name, case in {"alike": alike, "mixed": mixed}.items()}
    assert Rulebook(kind=kinds).pairs() == {"alike": 2, "mixed": 0}
