"""What the elements of a camt message say: money with its direction, days, codes, the details of an entry.

Owns where in an element each of it stands, in every version. Never adds anything up, and forgets names and addresses.
"""

import re
from collections.abc import Mapping
from datetime import date
from typing import NamedTuple

from lxml import etree

from adapters.sources.amounts import exact_minor

TEXTS_MAX = 64  # remittance lines of one detail that are searched
COUNT_DIGITS_MAX = 15

_CURRENCY = re.compile("[A-Z]{3}")
_CODE = re.compile(r"(?=.{1,35}$)[A-Z0-9]+([-+./][A-Z0-9]+)*")
_DIRECTIONS = {"CRDT": 1, "DBIT": -1}
_STATUSES = {"BOOK": True, "PDNG": False, "INFO": False, "FUTR": False}  # whether it is on the account
_PARTIES = {1: "Dbtr", -1: "Cdtr"}  # who is at the other end of a credit, of a debit

Fields = Mapping[str, etree._Element]


class Money(NamedTuple):
    """An amount in the minor units of its currency."""

    minor: int
    currency: str


class Part(NamedTuple):
    """One detail of an entry. `money` is None when it names no readable amount."""

    money: Money | None
    end_to_end: str
    originators: tuple[str, str]  # debtor's, creditor's
    texts: tuple[str, ...]


class Unfit(Exception):
    """An entry that can't be read; its argument is the code."""


def children(element: etree._Element) -> Fields:
    """The children by their names; of several of a name the first."""
    return {child.tag.rpartition("}")[2]: child for child in element.iterchildren(etree.Element, reversed=True)}


def all_text(fields: Fields, name: str, default: str = "") -> str:
    """A child's text, wherever in it it stands: newer versions nest what older ones wrote plainly."""
    child = fields.get(name)
    if child is None:
        return default
    return (child.text if not len(child) else "".join(child.itertext())).strip() if child.text or len(child) else ""


def is_booked(fields: Fields) -> bool:
    """Whether an entry is on the account. Raises Unfit for a status that the standard doesn't know."""
    booked = _STATUSES.get(all_text(fields, "Sts", "BOOK"))
    if booked is None:
        raise Unfit("entry_status")
    return booked


def signed(fields: Fields) -> Money:
    """An amount with its direction. Raises Unfit."""
    money = _money(fields.get("Amt"))
    direction = _DIRECTIONS.get(all_text(fields, "CdtDbtInd"))
    if direction is None:
        raise Unfit("direction")
    if money is None or money.minor < 0:
        raise Unfit("amount")
    return money._replace(minor=direction * money.minor)


def _money(amount: etree._Element | None) -> Money | None:
    if amount is None:
        return None
    currency = amount.get("Ccy", "")
    minor = exact_minor(amount.text or "", currency)
    return None if minor is None or not _CURRENCY.fullmatch(currency) else Money(minor, currency)


def part_of(details: etree._Element) -> Part:
    """One detail; its amount has the direction of its entry where it names none."""
    fields = children(details)
    amount, parties, references = fields.get("Amt"), fields.get("RltdPties"), fields.get("Refs")
    if amount is None and "AmtDtls" in fields:
        amount = fields["AmtDtls"].find("{*}TxAmt/{*}Amt")
    money = _money(amount)
    if money:
        direction = all_text(fields, "CdtDbtInd") or next(details.iterancestors("{*}Ntry")).findtext("{*}CdtDbtInd", "")
        money = money._replace(minor=_DIRECTIONS.get(direction.strip(), 1) * money.minor)
    return Part(
        money=money,
        end_to_end="" if references is None else references.findtext("{*}EndToEndId", "").strip(),
        originators=(_organisation(parties, _PARTIES[1]), _organisation(parties, _PARTIES[-1])),
        texts=_texts(fields),
    )


def _organisation(parties: etree._Element | None, role: str) -> str:
    """An organisation's id; a private person's is never read."""
    if parties is None:
        return ""
    for place in (f"{{*}}{role}/{{*}}Id/{{*}}OrgId", f"{{*}}{role}/{{*}}Pty/{{*}}Id/{{*}}OrgId"):
        for name in ("{*}Othr/{*}Id", "{*}LEI", "{*}AnyBIC", "{*}BICOrBEI"):
            if found := parties.findtext(f"{place}/{name}"):
                return found.strip()
    return ""


def _texts(fields: Fields) -> tuple[str, ...]:
    """What may hold a trace: remittance lines, plain or beside a structured one, and the bank's own words."""
    remittance = fields.get("RmtInf")
    nodes = () if remittance is None else remittance.iter("{*}Ustrd", "{*}AddtlRmtInf")
    lines = [node.text.strip() for node, _ in zip(nodes, range(TEXTS_MAX), strict=False) if node.text]
    return (*lines, all_text(fields, "AddtlTxInf"))


def type_code_of(code: etree._Element | None) -> str:
    """Domain, family and sub-family, or the bank's own code. What does not look like a code is free text, and stays."""
    if code is None:
        return ""
    places = ("{*}Domn/{*}Cd", "{*}Domn/{*}Fmly/{*}Cd", "{*}Domn/{*}Fmly/{*}SubFmlyCd")
    domain = "-".join(text.strip() for place in places if (text := code.findtext(place)))
    proposed = domain or code.findtext("{*}Prtry/{*}Cd", "").strip()
    return proposed if _CODE.fullmatch(proposed) else ""


def summary_of(element: etree._Element) -> dict[str, str]:
    """The totals that a bank announces, as it writes them."""
    places = {
        "count": "{*}TtlNtries/{*}NbOfNtries",
        "credit": "{*}TtlCdtNtries/{*}Sum",
        "debit": "{*}TtlDbtNtries/{*}Sum",
    }
    return {name: text.strip() for name, place in places.items() if (text := element.findtext(place))}


def as_day(text: str) -> date | None:
    """The day as it is written, without its time."""
    try:
        return date.fromisoformat(text[:10])
    except ValueError:
        return None


def count_of(text: str | None) -> int:
    """A count that a bank announces; 0 where it announces none that can be one."""
    digits = (text or "").strip()
    return int(digits) if digits.isdecimal() and len(digits) <= COUNT_DIGITS_MAX else 0
