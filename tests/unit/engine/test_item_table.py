"""The table of open items: found by key, told apart, forgotten, grown and dumped."""

import numpy as np
import polars as pl
import polars_hash as plh

from runtime.ledger.item_table import NONE, ItemTable, Keys, Label, key_of, keyed
from runtime.ledger.waiting import OpenItem

MANY = 5_000
LABEL = Label("capture", "mercy", "ehr", "USD")


def key(number: int) -> tuple[str, str, str]:
    """The key of one of many items."""
    return "capture", "mercy", f"c{number}"


def item(number: int) -> OpenItem:
    """One of many items."""
    return OpenItem(number, 10 + number, "ehr", f"e{number}", "USD")


def filled(count: int = MANY) -> ItemTable:
    """A table of so many items, put one by one."""
    table = ItemTable()
    for number in range(count):
        table.put(key(number), item(number))
    return table


def keys(numbers: range) -> Keys:
    """The keys of items, hashed one by one."""
    return Keys(*np.array([key_of(key(number)) for number in numbers], np.uint64).T)


def opened(numbers: range) -> ItemTable:
    """The same table, opened in whole columns."""
    table, values = ItemTable(), np.array(numbers)
    labels = np.full(len(values), table.label_of(LABEL))
    table.open(keys(numbers), labels, values, values + 10, [f"e{number}" for number in numbers])
    return table


def reloaded(table: ItemTable) -> ItemTable:
    """What comes of a dump."""
    other = ItemTable()
    other.load(table.dump())
    return other


def test_item_table_gives_back_what_was_put():
    """Every item is found by its key, however far the table has grown, and no other is."""
    table = filled()
    assert all(table.get(key(number)) == item(number) for number in range(MANY))
    assert table.get(key(MANY)) is None
    assert len(table) == MANY


def test_item_table_opens_many_as_one_by_one():
    """Whole columns give the table that single items give."""
    assert opened(range(MANY)).dump() == filled().dump()
    assert opened(range(MANY)).rows_of(keys(range(MANY + 1))).tolist() == [*range(MANY), NONE]


def test_item_table_hashes_columns_as_single_keys():
    """A key is the same, whether it is hashed alone or with its column."""
    texts = pl.DataFrame({"name": ["capture", "refund"], "entity": ["mercy", "grace"], "key": ["c1", "straße"]})
    assert keyed(*map(hashed, texts.iter_columns())).pairs() == [key_of(row) for row in texts.iter_rows()]


def hashed(column: pl.Series) -> Keys:
    """Both hashes of a column's texts."""
    of = plh.col(column.name).nchash
    both = column.to_frame().select(of.xxhash64().alias("hash"), of.xxh3_64().alias("check"))
    return Keys(both["hash"].to_numpy(), both["check"].to_numpy())


def test_item_table_tells_keys_of_one_hash_apart():
    """Two keys that one hash can't tell apart are two items, as the other one can."""
    table, same = ItemTable(), np.array([7, 7], np.uint64)
    both = Keys(same, np.array([1, 2], np.uint64))
    labels = np.full(2, table.label_of(LABEL))
    table.open(both, labels, np.array([10, 20]), np.zeros(2, np.int64), ["one", "other"])
    assert table.amount_minor[table.rows_of(both)].tolist() == [10, 20]
    assert table.rows_of(Keys(same[:1], np.array([3], np.uint64))).tolist() == [NONE]


def test_item_table_keeps_changes():
    """What is changed in an item and put back is what is found next."""
    table = filled(3)
    changed = table.get(key(1))
    changed.used_minor, changed.flagged = 1, True
    table.put(key(1), changed)
    assert table.get(key(1)) == changed
    assert len(table) == 3


def test_item_table_forgets_and_opens_anew():
    """A forgotten item is not found, one of its key may be opened again, and others stay in their order."""
    table = filled()
    table.forget(table.standing()[: MANY - 10])
    table.remove(key(MANY - 1))
    assert table.get(key(0)) is None
    assert len(table) == 9
    table.put(key(0), item(0))
    assert [table.at(row)[1].event_id for row in table.standing()] == [
        *(f"e{MANY - n}" for n in range(10, 1, -1)),
        "e0",
    ]
    assert table.rows_of(keys(range(1))).tolist() != [NONE]


def test_item_table_dump_holds_everything_but_the_forgotten():
    """A table that is loaded holds the same items and dumps the same."""
    table = filled(100)
    table.remove(key(50))
    again = reloaded(table)
    assert again.dump() == table.dump()
    assert again.get(key(99)) == item(99)
    assert again.get(key(50)) is None
    again.put(key(50), item(50))
    assert len(again) == 100
