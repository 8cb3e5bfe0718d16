"""Whether the books contradict themselves, looked at again and again without reading the whole history again.

Owns the table `conservation_marks`: up to where posting sets and entries were right. Three questions: do the control
totals of each key add up; does every posting set balance; is every journal entry the sum of the sets that it names. The
first reads a table that does not grow with history, the others only what is new since the mark, which stops before what
is wrong, so that a break is told until it is right again. Repairs nothing.
"""

from collections import Counter, defaultdict
from collections.abc import Callable

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, select, tuple_

from adapters.books import control_totals, frames, queries, tables
from adapters.books.conserved import totals_breaks
from adapters.books.database import Database
from adapters.books.posting_rows import read_lines, unpacked
from runtime.ports import CORRECTIONS, ConservationBreak, JournalEntry

ENTRIES_A_ROUND = 500
_MARK_OF_ENTRIES = "entries"

_sets, _entries, _owners = tables.posting_sets.c, tables.entries.c, tables.owners.c


class SqlConservation:
    """Mixed into `SqlBooks`, whose database it uses."""

    _database: Database
    _now_ms: Callable[[], int]

    def conservation_breaks(self, sets_max: int) -> list[ConservationBreak]:
        """See Books."""
        moved: dict[str, tuple[int, int]] = {}
        with self._database.snapshot() as connection:
            breaks = totals_breaks(control_totals.held(connection))
            marks = {name: tuple(place) for name, *place in connection.execute(select(tables.conservation_marks))}
            owners = connection.scalars(select(_owners.owner).where(_owners.owner.like("shard:%"))).all()
            for owner in [f"shard:{CORRECTIONS}", *owners]:
                breaks += _check_sets(connection, owner, marks.get(owner, (0, 0)), sets_max, moved)
            breaks += _check_entries(connection, marks.get(_MARK_OF_ENTRIES, (0, 0))[0], moved)
        if moved:
            with self._database.writing() as connection:
                self._move_marks(connection, moved)
        return breaks

    def _move_marks(self, connection: Connection, moved: dict[str, tuple[int, int]]) -> None:
        rows = [{"name": name, "place_ms": ms, "place_seq": seq} for name, (ms, seq) in sorted(moved.items())]
        given = self._database.insert(tables.conservation_marks)
        place = {name: given.excluded[name] for name in ("place_ms", "place_seq")}
        connection.execute(given.on_conflict_do_update(index_elements=["name"], set_=place), rows)


def _check_sets(
    connection: Connection, owner: str, mark: tuple[int, int], sets_max: int, moved: dict[str, tuple[int, int]]
) -> list[ConservationBreak]:
    """The first set after the mark that does not balance; without one, the mark moves past what was looked at."""
    shard = int(owner.removeprefix("shard:"))
    end = connection.execute(_place_after(shard, mark, sets_max)).first() or connection.execute(_newest(shard)).first()
    if end is None or tuple(end) <= mark:
        return []
    for ms, sequence, set_no, stored in connection.execute(_between(shard, mark, tuple(end))):
        lines = read_lines(stored)
        signed = _signed(lines)
        if signed or not lines:
            place = f"shard {shard}, commit {ms}-{sequence}, set {set_no}"
            detail = f"{place}: debits and credits differ by {signed} minor units"
            return [ConservationBreak(f"posting_set:{place}", detail)]
    moved[owner] = tuple(end)
    return []


def _signed(lines: list[tuple]) -> int:
    """Debits less credits, in minor units."""
    return sum(amount if side == "D" else -amount for *_, side, amount in lines)


def _place_after(shard: int, mark: tuple[int, int], sets_max: int) -> Select:
    """The commit of the last set that one round looks at, if there are more."""
    place = (_sets.position_ms, _sets.position_seq)
    beyond = select(*place).where(*_beyond(_sets, shard, mark))
    return beyond.order_by(*place).offset(sets_max).limit(1)


def _newest(shard: int) -> Select:
    place = (_sets.position_ms, _sets.position_seq)
    return select(*place).where(_sets.shard == shard).order_by(*(part.desc() for part in place)).limit(1)


def _between(shard: int, mark: tuple[int, int], end: tuple[int, int]) -> Select:
    """The sets after the mark, up to the end, with their lines."""
    key = (_sets.position_ms, _sets.position_seq, _sets.set_no)
    beyond = select(*key, _sets.lines).where(*_beyond(_sets, shard, mark), tuple_(*key[:2]) <= tuple_(*end))
    return beyond.order_by(*key)


def _beyond(columns: object, shard: int, mark: tuple[int, int]) -> tuple[ColumnElement[bool], ...]:
    """Said twice, as only the plain comparison is looked up in the key by every database."""
    place = tuple_(columns.position_ms, columns.position_seq)
    return columns.shard == shard, columns.position_ms >= mark[0], place > tuple_(*mark)


def _check_entries(connection: Connection, mark: int, moved: dict[str, tuple[int, int]]) -> list[ConservationBreak]:
    """The first entry sealed after the mark that is not the sum of its sets."""
    sealed = select(_entries.sealed_no, _entries.body, _entries.state).where(_entries.sealed_no > mark)
    rows = connection.execute(sealed.order_by(_entries.sealed_no).limit(ENTRIES_A_ROUND)).all()
    entries = [msgspec.json.decode(row.body, type=JournalEntry) for row in rows if row.state != "replaced"]
    sums = _claimed_sums(connection, entries)
    for row, entry in zip((row for row in rows if row.state != "replaced"), entries, strict=True):
        told: Counter[tuple] = Counter()
        for line in entry.lines:
            told[line.account_code, line.side] += line.amount_minor
        if told != sums.get(entry.key, Counter()):
            if row.sealed_no - 1 > mark:
                moved[_MARK_OF_ENTRIES] = (row.sealed_no - 1, 0)
            detail = f"journal entry {entry.key}: its lines are not the sum of the posting sets that it names"
            return [ConservationBreak(f"entry:{entry.key}", detail)]
    if rows:
        moved[_MARK_OF_ENTRIES] = (rows[-1].sealed_no, 0)
    return []


def _claimed_sums(connection: Connection, entries: list[JournalEntry]) -> dict[str, Counter[tuple]]:
    """Minor units by account and side, of each entry, as the sets are stamped."""
    sums: dict[str, Counter[tuple]] = defaultdict(Counter)
    for part in queries.in_parts(queries.places_of(entries)):
        lines = unpacked(connection.execute(queries.claimed_lines(part)), frames.CLAIMED)
        for key, account_code, side, *_, amount in lines.iter_rows():
            sums[key][account_code, side] += amount
    return sums
