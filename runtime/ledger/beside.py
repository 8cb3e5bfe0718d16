"""Items of one key that something else tells apart, as the trace of one payer and the same trace of another.

Owns which of them are open beside each other, and which of them a consumer means. Never says whether an item fits.
"""

from collections.abc import Callable

from runtime.ledger.item_table import SPARE_ROWS_MAX, ItemTable
from runtime.ledger.waiting import Key, OpenItem

SEPARATOR = "\x1f"  # in a key, before what tells items of one key apart; no column holds it


def shared(key: Key) -> Key:
    """What items that stand beside each other have in common: the key without what tells them apart."""
    return key[0], key[1], key[2].partition(SEPARATOR)[0]


def named(key: Key) -> str:
    """What tells an item apart, "" where nothing does."""
    return key[2].partition(SEPARATOR)[2]


def apart(text: str, by: str) -> str:
    """A key's text with what tells it apart."""
    return f"{text}{SEPARATOR}{by}" if text and by else text


class Beside:
    """By what they share, the keys of open items. `texts` is all of its state."""

    def __init__(self, items: ItemTable) -> None:
        self._items = items
        self.texts: dict[Key, list[str]] = {}

    def put(self, key: Key) -> None:
        """An item was opened."""
        texts = {*self.texts.get(shared(key), ()), key[2]}
        self.texts[shared(key)] = sorted(text for text in texts if (*key[:2], text) in self._items)

    def meant(self, key: Key, fits: Callable[[OpenItem], bool], alias: Callable[[str], str]) -> Key | None:
        """The item that a consumer of a key means: its own; else one that another name of the same tells apart, or
        where either leaves that open, if it is the only one, or alone fits. None if several fit."""
        own = named(key)
        if own and key in self._items:
            return key
        beside = [(*key[:2], text) for text in self.texts.get(shared(key), ())]
        open_to = [one for one in beside if not own or not named(one) or alias(named(one)) == alias(own)]
        there = {one: item for one in open_to if (item := self._items.get(one))}
        fitting = [one for one, item in there.items() if fits(item)]
        if len(fitting) > 1:
            return None
        return next(iter(fitting or there), key)

    def sweep(self) -> None:
        """Forget what items that are gone shared, when that has become most of it."""
        if len(self.texts) <= 2 * len(self._items) + SPARE_ROWS_MAX:
            return
        kept = {
            bare: [text for text in texts if (*bare[:2], text) in self._items] for bare, texts in self.texts.items()
        }
        self.texts = {bare: texts for bare, texts in kept.items() if texts}
