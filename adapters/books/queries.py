"""What is read from the books' tables, as SQLAlchemy selects.

Owns the shape of every report: columns come out in the order of `frames`. Runs nothing.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

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
    column,
    func,
    literal,
    select,
    tuple_,
    values,
)

from adapters.books import tables
from adapters.books.frames import EXCEPTION_STATES, HISTORY
from runtime.effects import DELTAS, TOTALS
from runtime.ports import JournalEntry, position_key

_sets, _lines, _entries = tables.posting_sets.c, tables.posting_lines.c, tables.entries.c
_SET_KEY = ("shard", "position_ms", "position_seq", "set_no")
PLACES_PER_STATEMENT = 1_000  # each is four parameters, of which either database takes some ten thousand

SetKey = tuple[int, int, int, int]  # a set's place: shard, the position's two numbers, set_no
BEFORE_ALL: SetKey = (-1, 0, 0, 0)


def unclaimed(erp_entities: Sequence[str], sets_max: int, period: str = "") -> Select:
    """Lines of the first `sets_max` sets that wait for an entry, of one period or of any."""
    of_period = [_sets.period == period] if period else []
    waiting = (
        select(tables.posting_sets)
        .where(_waits_for(erp_entities), *of_period)
        .order_by(*_claim_order(tables.posting_sets))
        .limit(sets_max)
        .subquery()
    )
    joined = waiting.join(tables.posting_lines, _same_set(waiting, tables.posting_lines))
    where_and_when = (waiting.c.shard, _position(waiting).label("position"), waiting.c.committed_at_ms)
    return (
        select(*_delta_columns(waiting), *where_and_when)
        .select_from(joined)
        .order_by(*_claim_order(waiting), _lines.line_no)
    )


def unclaimed_lane(erp_entities: Sequence[str], period: str = "") -> Select:
    """The lane of the first set that waits for an entry."""
    of_period = [_sets.period == period] if period else []
    first = select(_sets.lane).where(_waits_for(erp_entities), *of_period)
    return first.order_by(*_claim_order(tables.posting_sets)).limit(1)


def unclaimed_count(erp_entities: Sequence[str]) -> Select:
    """How many sets wait for an entry."""
    return select(func.count()).select_from(tables.posting_sets).where(_waits_for(erp_entities))


def posting(shard: int, position: str, set_no: int) -> Select:
    """Lines of one set with what became of it."""
    ms, sequence = position_key(position)
    joined = tables.posting_sets.join(tables.posting_lines, _same_set(tables.posting_sets, tables.posting_lines))
    return (
        select(*_delta_columns(tables.posting_sets), *_fate(tables.posting_sets))
        .select_from(joined.outerjoin(tables.entries, _sets.entry_key == _entries.key))
        .where(_sets.shard == shard, _sets.position_ms == ms, _sets.position_seq == sequence, _sets.set_no == set_no)
        .order_by(_lines.line_no)
    )


def posting_page(after: SetKey, sets_max: int) -> Select:
    """Lines of the first `sets_max` sets after one, in the order of their keys, with what became of them."""
    key = [_sets[name] for name in _SET_KEY]
    page = select(tables.posting_sets).where(tuple_(*key) > tuple_(*after)).order_by(*key).limit(sets_max).subquery()
    joined = page.join(tables.posting_lines, _same_set(page, tables.posting_lines))
    return (
        select(*_delta_columns(page), *_fate(page), page.c.shard, _position(page))
        .select_from(joined.outerjoin(tables.entries, page.c.entry_key == _entries.key))
        .order_by(*(page.c[name] for name in _SET_KEY), _lines.line_no)
    )


def told_sets(places: Sequence[SetKey], kinds: Collection[str]) -> Select:
    """What a status says of each of these sets, where it has a document and its kind is one of these.

    The places come as a table: a list of tuples in a condition would make SQLite read every set there is.
    """
    columns = (column(name, BigInteger) for name in _SET_KEY)
    given = values(*columns, name="given").data(places).cte()
    told = (_sets.kind.in_(kinds), _sets.document != "", _lines.side == "D")
    key, what = [_sets[name] for name in _SET_KEY], (_sets.kind, _sets.entity, _sets.document, _sets.currency)
    place = (_sets.shard, _position(tables.posting_sets), _sets.set_no)
    sets = given.join(tables.posting_sets, _same_set(given, tables.posting_sets))
    return (
        select(*place, *what, _whole(func.sum(_lines.amount_minor)))
        .select_from(sets.join(tables.posting_lines, _same_set(given, tables.posting_lines)))
        .where(*told)
        .group_by(*key, *what)
        .order_by(*key)
    )


def places_of(entries: Iterable[JournalEntry]) -> list[SetKey]:
    """The places of all sets that these entries name."""
    return [(shard, *position_key(position), no) for entry in entries for shard, position, no in entry.sets]


def in_parts(places: Sequence[SetKey]) -> Iterator[Sequence[SetKey]]:
    """So many places at a time as one statement can name."""
    return (places[start : start + PLACES_PER_STATEMENT] for start in range(0, len(places), PLACES_PER_STATEMENT))


def claimed_lines(places: Sequence[SetKey]) -> Select:
    """The lines of these sets, summed by the entry that each set is stamped with and what an entry's line keeps."""
    columns = (column(name, BigInteger) for name in _SET_KEY)
    given = values(*columns, name="given").data(places).cte()
    sets = given.join(tables.posting_sets, _same_set(given, tables.posting_sets))
    dimensions = (_lines.facility, _lines.department, _lines.variance)
    what = (func.coalesce(_sets.entry_key, ""), _lines.account_code, _lines.side, *dimensions)
    return (
        select(*what, _sets.kind, _whole(func.sum(_lines.amount_minor)))
        .select_from(sets.join(tables.posting_lines, _same_set(given, tables.posting_lines)))
        .group_by(*what, _sets.kind)
    )


def lines_of_sets(places: Sequence[SetKey]) -> Select:
    """The lines of these sets: columns DELTAS, shard, position, in the order of their keys."""
    columns = (column(name, BigInteger) for name in _SET_KEY)
    given = values(*columns, name="given").data(places).cte()
    sets = given.join(tables.posting_sets, _same_set(given, tables.posting_sets))
    return (
        select(*_delta_columns(tables.posting_sets), _sets.shard, _position(tables.posting_sets))
        .select_from(sets.join(tables.posting_lines, _same_set(given, tables.posting_lines)))
        .order_by(*(_sets[name] for name in _SET_KEY), _lines.line_no)
    )


def balances() -> Select:
    """Debits and credits of each account over all lines that no replaced entry keeps, and over those whose entry is
    posted."""
    key = (_sets.entity, _sets.currency, _lines.account_code)
    posted = _entries.state == "posted"
    joined = tables.posting_sets.join(tables.posting_lines, _same_set(tables.posting_sets, tables.posting_lines))
    return (
        select(
            *key,
            _amount_where(_lines.side == "D"),
            _amount_where(_lines.side == "C"),
            _amount_where(and_(posted, _lines.side == "D")),
            _amount_where(and_(posted, _lines.side == "C")),
        )
        .select_from(joined.outerjoin(tables.entries, _sets.entry_key == _entries.key))
        .where(func.coalesce(_entries.state, "") != "replaced")
        .group_by(*key)
        .order_by(*key)
    )


def totals() -> Select:
    """Control totals, summed over shards."""
    columns = tables.totals.c
    keys = [columns[name] for name in TOTALS if name not in ("events", "amount_minor")]
    sums = [_whole(func.sum(column)) for column in (columns.events, columns.amount_minor)]
    return select(*keys, *sums).group_by(*keys).order_by(*keys)


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
    return (
        select(tables.commit_marks)
        .where(columns.shard == shard, place > tuple_(*position_key(after)))
        .order_by(columns.position_ms, columns.position_seq)
    )


def shard_owners() -> Select:
    """Every shard's owner row."""
    return select(tables.owners).where(tables.owners.c.owner.like("shard:%"))


def _waits_for(erp_entities: Sequence[str]) -> ColumnElement[bool]:
    return and_(_sets.entry_key.is_(None), _sets.entity.in_(erp_entities))


def _claim_order(sets: FromClause) -> list[ColumnElement]:
    return [sets.c[name] for name in ("lane", "committed_at_ms", *_SET_KEY)]


def _same_set(sets: FromClause, lines: FromClause) -> ColumnElement[bool]:
    return and_(*(sets.c[name] == lines.c[name] for name in _SET_KEY))


def _delta_columns(sets: FromClause) -> list[ColumnElement]:
    return [sets.c[name] if name in sets.c else _lines[name] for name in DELTAS]


def _fate(sets: FromClause) -> list[ColumnElement[str]]:
    return [func.coalesce(column, "") for column in (sets.c.entry_key, _entries.state, _entries.erp_ref)]


def _position(sets: FromClause) -> ColumnElement[str]:
    return cast(sets.c.position_ms, String) + "-" + cast(sets.c.position_seq, String)


def _amount_where(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return _whole(func.sum(case((condition, _lines.amount_minor), else_=0)))


def _whole(number: ColumnElement) -> ColumnElement[int]:
    """PostgreSQL sums BIGINT as NUMERIC; cents stay whole numbers here."""
    return cast(number, BigInteger)
