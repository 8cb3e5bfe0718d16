"""A file's control total as it may be shown and kept.

Owns leaving out what is no word of ours: where a row's cells have slipped, a name may stand in place of a kind. Such
rows are counted and summed all the same, under one name for all of them.
"""

from typing import Any

from adapters import settings
from adapters.sources import KindTotal, Source
from runtime.config import Config
from runtime.ledger.rule_file import parse_rulebook

UNKNOWN = "(unknown)"


def shown_totals(config: Config, source: Source) -> list[dict[str, Any]]:
    """Events and sums by entity, currency and kind, sorted; what the configuration does not know is UNKNOWN."""
    kinds = parse_rulebook(settings.load_rulebook_text(config)).kind
    terms = config.entity_terms()
    currencies = {currency for entity in terms.values() for currency in entity.currencies}
    shown: dict[tuple[str, ...], KindTotal] = {}
    for key, sums in source.total().sums.items():
        told = tuple(
            name if name in known else UNKNOWN for name, known in zip(key, (terms, currencies, kinds), strict=True)
        )
        shown[told] = shown.get(told, KindTotal()).plus(sums)
    return [
        {"entity": entity, "currency": currency, "kind": kind, **sums._asdict()}
        for (entity, currency, kind), sums in sorted(shown.items())
    ]
