"""Which kinds have to do with each other.

Owns finding them by what their links name, whatever sort of link it is.
"""

from collections.abc import Iterator

import msgspec

from runtime.ledger.rules import Rulebook


def related(rulebook: Rulebook, kinds: set[str]) -> set[str]:
    """These kinds, and all that share an item, a group or a register with one of them, or with one that does."""
    names = {kind: set(_named(msgspec.to_builtins(terms.links))) for kind, terms in rulebook.kind.items()}
    met = set(kinds)
    while more := {kind for kind in names for one in met if names[kind] & names[one]} - met:
        met |= more
    return met


def _named(links: object) -> Iterator[tuple[str, str]]:
    """Every item, group and register that is named anywhere in the links."""
    if isinstance(links, (list, tuple)):
        for one in links:
            yield from _named(one)
    if isinstance(links, dict):
        for name, value in links.items():
            if name in ("item", "group", "register"):
                yield name, value
            yield from _named(value)
