"""Links: which kinds have to do with each other."""

from adapters.settings import standard_rulebook_text
from runtime.ledger.links import GroupRef, ItemRef, Links, RegisterRef, meeting
from runtime.ledger.rule_file import parse_rulebook

CHAIN = {
    "order": Links(opens=ItemRef(item="line", key="document")),
    "receipt": Links(
        consumes=ItemRef(item="line", key="reference"), enters=RegisterRef(register="orders", part="x", key="document")
    ),
    "bill": Links(
        enters=RegisterRef(register="orders", part="y", key="document"), closes=GroupRef(group="bill", key="document")
    ),
    "line": Links(member_of=GroupRef(group="bill", key="reference")),
    "card": Links(opens=ItemRef(item="authorisation", key="document")),
}


def test_kinds_meet_in_items_groups_and_registers():
    """A kind meets another one directly or through others; one that shares nothing is left out."""
    for name in ("order", "receipt", "bill", "line"):
        assert meeting([name], CHAIN) == ["bill", "line", "order", "receipt"]
    assert meeting(["card"], CHAIN) == ["card"]


def test_cards_and_remittances_have_nothing_to_do_with_held_payments():
    """By the standard rules a payment that waits for holds meets purchasing, and neither cards nor remittances."""
    rulebook = parse_rulebook(standard_rulebook_text())
    links = {name: kind.links for name, kind in rulebook.kind.items() if kind.links}
    met = {rulebook.kind[name].flow for name in meeting(["payment_released"], links)}
    assert met.isdisjoint({"card", "remittance"})
