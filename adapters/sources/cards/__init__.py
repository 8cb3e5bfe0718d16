"""What card processors settle: Stripe's and Adyen's itemised reports.

Owns the table of settlement formats and how one is recognised. Never reads a row itself.
"""

from adapters.sources.cards import adyen, stripe
from adapters.sources.cards.settlement import reader
from adapters.sources.source import Reader

__all__ = ["FORMATS", "recognise"]

FORMATS: dict[str, Reader] = {"stripe": reader(stripe.FORM), "adyen": reader(adyen.FORM)}
_SIGNATURES = {"stripe": stripe.SIGNATURE, "adyen": adyen.SIGNATURE}


def recognise(head: bytes) -> str:
    """The format whose header this is, or nothing."""
    line = head.decode("utf-8-sig", errors="replace").lstrip().partition("\n")[0]
    cells = {cell.strip('" \r').lower() for separator in ",;\t" for cell in line.split(separator)}
    for name, columns in _SIGNATURES.items():
        if cells.issuperset(column.lower() for column in columns):
            return name
    return ""
