"""What is read from the books' tables, as SQLAlchemy selects.

Owns the shape of every report: columns come out in the order of `frames`. Where a report is of posting lines, a row is
a set as `posting_rows.unpacked` takes it: what is the set's, and then its lines. Runs nothing.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    FromClause,
    Integer,
    Select,
    String,
    and_,
    case,
    cast,
    func,
    literal,
    literal_column,
    select,
    tuple_,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from adapters.books import tables
from adapters.books.frames import EXCEPTION_STATES, HISTORY, SET_COLUMNS
from runtime.effects import DELTAS
from runtime.ports import JournalEntry, position_key

_sets, _entries = tables.posting_sets.c, tables.entries.c
_SET_KEY = ("shard", "position_ms", "position_seq", "set_no")
PLACES_PER_STATEMENT = 1_000  # so that the lines of one answer have room in memory

SetKey = tuple[int, int, int, int]  # a set's place: shard, the position's two numbers, set_no
BEFORE_ALL: SetKey = (-1, 0, 0, 0)

_KEY = [_sets[name] for name in _SET_KEY]
_CLAIM_ORDER = (_sets.lane, _sets.committed_at_ms, *_KEY)
_SET_COLUMNS = [_sets[name] for name in DELTAS if name in SET_COLUMNS]
_POSITION = (cast(_sets.position_ms, String) + "-" + cast(_sets.position_seq, String)).label("position")
_WITH_ENTRIES = tables.posting_sets.outerjoin(tables.entries, _sets.entry_key == _entries.key)
_FATE = [func.coalesce(column, "") for column in (_sets.entry_key, _entries.state, _entries.erp_ref)]


def unclaimed(erp_entities: Sequence[str], sets_max: int, period: str = "") -> Select:
    """The first `sets_max` sets that wait for an entry, of one period or of any: columns UNCLAIMED."""
    of_period = [_sets.period == period] if period else []
    waiting = select(*_SET_COLUMNS, _sets.shard, _POSITION, _sets.committed_at_ms, _sets.lines)
    return waiting.where(_waits_for(erp_entities), *of_period).order_by(*_CLAIM_ORDER).limit(sets_max)


def unclaimed_lane(erp_entities: Sequence[str], period: str = "") -> Select:
    """The lane of the first set that waits for an entry."""
    of_period = [_sets.period == period] if period else []
    first = select(_sets.lane).where(_waits_for(erp_entities), *of_period)
    return first.order_by(*_CLAIM_ORDER).limit(1)


def unclaimed_count(erp_entities: Sequence[str]) -> Select:
    """How many sets wait for an entry."""
    return select(func.count()).select_from(tables.posting_sets).where(_waits_for(erp_entities))


def posting(shard: int, position: str, set_no: int) -> Select:
    """One set with what became of it: columns POSTING."""
    ms, sequence = position_key(position)
    place = (_sets.shard == shard, _sets.position_ms == ms, _sets.position_seq == sequence, _sets.set_no == set_no)
    return select(*_SET_COLUMNS, *_FATE, _sets.lines).select_from(_WITH_ENTRIES).where(*place)


def posting_page(after: SetKey, sets_max: int) -> Select:
    """The first `sets_max` sets after one, in the order of their keys, with what became of them: POSTING_PAGE."""
    page = select(*_SET_COLUMNS, *_FATE, _sets.shard, _POSITION, _sets.lines).select_from(_WITH_ENTRIES)
    return page.where(tuple_(*_KEY) > tuple_(*after)).order_by(*_KEY).limit(sets_max)


def before_shard(shard: int) -> SetKey:
    """A place before all sets of a shard, and after those of the shards before it."""
    return (shard, -1, 0, 0)


def replaced_page(after: SetKey, sets_max: int) -> Select:
    """As `posting_page`, of the sets alone whose entry was replaced."""
    return posting_page(after, sets_max).where(_entries.state == "replaced")


def told_sets(places: Sequence[SetKey], kinds: Collection[str]) -> Select:
    """What a status says of each of these sets, and its lines, where it has a document and its kind is one of these."""
    what = (_sets.kind, _sets.entity, _sets.document, _sets.currency)
    told = select(_sets.shard, _POSITION, _sets.set_no, *what, _sets.lines).select_from(_given(places))
    return told.where(_sets.kind.in_(kinds), _sets.document != "").order_by(*_KEY)


def places_of(entries: Iterable[JournalEntry]) -> list[SetKey]:
    """The places of all sets that these entries name."""
    return [(shard, *position_key(position), no) for entry in entries for shard, position, no in entry.sets]


def in_parts(places: Sequence[SetKey]) -> Iterator[Sequence[SetKey]]:
    """So many places at a time as one statement can name."""
    return (places[start : start + PLACES_PER_STATEMENT] for start in range(0, len(places), PLACES_PER_STATEMENT))


def claimed_lines(places: Sequence[SetKey]) -> Select:
    """Of each of these sets the entry that it is stamped with, its kind and its lines: columns CLAIMED."""
    stamped = select(func.coalesce(_sets.entry_key, ""), _sets.kind, _sets.lines)
    return stamped.select_from(_given(places)).order_by(*_KEY)


def lines_of_sets(places: Sequence[SetKey]) -> Select:
    """These sets in the order of their keys: columns PLACED."""
    return select(*_SET_COLUMNS, _sets.shard, _POSITION, _sets.lines).select_from(_given(places)).order_by(*_KEY)


def balances() -> Select:
    """Every set that no replaced entry keeps: whether its entry is posted, entity, currency, and its lines."""
    posted = case((_entries.state == "posted", 1), else_=0)
    kept = select(_sets.entity, _sets.currency, posted, _sets.lines).select_from(_WITH_ENTRIES)
    return kept.where(func.coalesce(_entries.state, "") != "replaced")


def role_sets(entity: str, role: str, through: str) -> Select:
    """Currency and lines of every set with such a line, up to a period's end, that no replaced entry keeps."""
    named = (_sets.entity == entity, _sets.period <= through, _sets.lines.contains(f'"{role}"', autoescape=True))
    kept = select(_sets.currency, _sets.lines).select_from(_WITH_ENTRIES).where(*named)
    return kept.where(func.coalesce(_entries.state, "") != "replaced")


def exceptions(chosen: Mapping[str, Sequence[str]], raised_before_ms: int | None, limit: int) -> Select:
    """Exceptions, oldest first, whose columns have one of the chosen values; an empty choice is any."""
    columns = tables.exceptions.c
    stored = {"raised_at": columns.raised_at_ms, "resolved_at": columns.resolved_at_ms}
    wanted = select(*(stored[name] if name in stored else columns[name] for name in EXCEPTION_STATES))
    wanted = wanted.where(*(columns[name].in_(values) for name, values in chosen.items() if values))
    if raised_before_ms is not None:
        wanted = wanted.where(columns.raised_at_ms < raised_before_ms)
    return wanted.order_by(columns.raised_at_ms, columns.exception_id).limit(limit)


def exception_history(exception_id: str) -> Select:
    """All that happened to an exception, in order."""
    columns = tables.exception_history.c
    wanted = select(*(columns["changed_at_ms" if name == "changed_at" else name] for name in HISTORY))
    return wanted.where(columns.exception_id == exception_id).order_by(columns.change_no)


def exception_ages(edges_ms: Sequence[int]) -> Select:
    """Open exceptions and their amounts by type, currency and bucket: how many edges each is as old as."""
    columns = tables.exceptions.c
    reached = (case((columns.raised_at_ms <= edge, 1), else_=0) for edge in edges_ms)
    bucket = cast(sum(reached, start=literal(0)), Integer).label("bucket")
    aged = select(columns.type, func.coalesce(columns.currency, "").label("currency"), bucket, columns.amount_minor)
    open_ones = aged.where(columns.state == "open").subquery().c
    key = (open_ones.type, open_ones.currency, open_ones.bucket)
    amount = _whole(func.coalesce(func.sum(open_ones.amount_minor), 0))
    return select(*key, func.count(), amount).group_by(*key).order_by(*key)


def exception_counts() -> Select:
    """Open exceptions by type."""
    columns = tables.exceptions.c
    return select(columns.type, func.count()).where(columns.state == "open").group_by(columns.type)


def entry_bodies(erp_entities: Sequence[str], states: Sequence[str], limit: int) -> Select:
    """JSON of entries in these states, lowest lane first, then in the order of sealing."""
    chosen = and_(_entries.entity.in_(erp_entities), _entries.state.in_(states))
    return select(_entries.body).where(chosen).order_by(_entries.lane, _entries.sealed_no).limit(limit)


def entry_counts() -> Select:
    """Entries by state."""
    return select(_entries.state, func.count()).group_by(_entries.state)


def commits(shard: int, after: str) -> Select:
    """Commit marks after a position, oldest first."""
    columns = tables.commit_marks.c
    place = tuple_(columns.position_ms, columns.position_seq)
    told = (columns.after_ms, columns.after_seq, columns.position_ms, columns.position_seq)
    return (
        select(*told, columns.row_count, columns.digest)
        .where(columns.shard == shard, place > tuple_(*position_key(after)))
        .order_by(columns.position_ms, columns.position_seq)
    )


def shard_owners() -> Select:
    """Every shard's owner row."""
    return select(tables.owners).where(tables.owners.c.owner.like("shard:%"))


def _waits_for(erp_entities: Sequence[str]) -> ColumnElement[bool]:
    return and_(_sets.entry_key.is_(None), _sets.entity.in_(erp_entities))


def _given(places: Sequence[SetKey]) -> FromClause:
    """The sets at these places, which come as a table: a list of tuples in a condition would make SQLite read every set
    there is. They go as one parameter: to make a statement of a thousand places takes longer than to run it."""
    each = _Each(msgspec.json.encode(places).decode()).table_valued("value")
    alike = (cast(_At(each.c.value, literal_column(str(at))), BigInteger) == key for at, key in enumerate(_KEY))
    return each.join(tables.posting_sets, and_(*alike))


class _Each(FunctionElement):
    """The elements of a JSON array, each as a row with one `value`."""

    name, inherit_cache = "each", True


class _At(FunctionElement):
    """An element of a JSON array, by its place."""

    name, inherit_cache = "at", True


@compiles(_Each, "sqlite")
def _each_in_sqlite(element: _Each, compiler: SQLCompiler, **given: object) -> str:
    return f"json_each({compiler.process(element.clauses, **given)})"


@compiles(_Each, "postgresql")
def _each_in_postgres(element: _Each, compiler: SQLCompiler, **given: object) -> str:
    return f"json_array_elements(CAST({compiler.process(element.clauses, **given)} AS json))"


@compiles(_At, "sqlite")
def _at_in_sqlite(element: _At, compiler: SQLCompiler, **given: object) -> str:
    array, at = (compiler.process(clause, **given) for clause in element.clauses)
    return f"json_extract({array}, '$[{at}]')"


@compiles(_At, "postgresql")
def _at_in_postgres(element: _At, compiler: SQLCompiler, **given: object) -> str:
    array, at = (compiler.process(clause, **given) for clause in element.clauses)
    return f"({array} ->> {at})"


def _whole(number: ColumnElement) -> ColumnElement[int]:
    """PostgreSQL sums BIGINT as NUMERIC; cents stay whole numbers here."""
    return cast(number, BigInteger)
