"""Matching of many events at once: what `matching` says of each in turn, in whole columns where their order is one.

Owns telling which rows those are. A row whose kind has plain links only opens its item here when nobody else asks for
that key, and uses one when all who use it fit together; every other row is odd, and goes one by one. Groups add up all
rows in their order. Never states a rule of its own: the end is that of rows taken one by one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
import xxhash

from runtime.ledger.beside import shared
from runtime.ledger.item_table import NONE, key_of
from runtime.ledger.linked_rows import NOTHING, LinkedRows, plan
from runtime.ledger.matching import Matching
from runtime.ledger.registers import Policy, unanswered
from runtime.ledger.rules import Rulebook
from runtime.ledger.waiting import Change, Event, GroupSum, Key, last_of
from runtime.schema import tuples_of

ROWS_MIN = 256  # fewer are quicker one by one

MATCHED = ("id_hash", *Event._fields[1:])  # the columns that matching looks at


class Taken(NamedTuple):
    """What became of the rows of a frame, which are known by their places in it.

    `ready`: places, in the order in which rows became so. `changes`: of the others that changed, arrivals and those
    that waited before, the last of each, by identity, in the order in which these came; `places`: where the arrivals
    among them are; `before`: of those that became ready, how many of `ready` became so before.
    """

    ready: np.ndarray
    changes: dict[int, Change]
    places: dict[int, int]
    before: dict[int, int] = {}


Moment = tuple[int, int]  # a turn, and the how manieth in it


class _Progress(NamedTuple):
    """How far the rows of a frame are, by their places.

    A turn is when something would be if rows came one by one: twice the place of the row that brings it about, and one
    more for who waited for an item that this row opens.
    """

    rows: LinkedRows
    since_ms: np.ndarray
    opened: np.ndarray  # the row of the item that it opened, NONE while it did not
    odd: np.ndarray
    refused: np.ndarray
    turn: np.ndarray  # in which nothing is lacking any more
    group_minor: np.ndarray  # as in Waiter
    changed: dict[int, Moment]  # when the last change of each came, by identity
    served: dict[int, Moment]  # when those that waited before got their items


class _Sums(NamedTuple):
    """Groups as their rows come: sorted by group, each group's rows in order of arrival, from `starts` to `ends`."""

    places: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    member_minor: np.ndarray  # running sums within the group
    total_minor: np.ndarray
    closers: np.ndarray
    group: np.ndarray  # number of the group


class StepMatching(Matching):
    """All that waits in one shard, as the arrivals of a step change it. `rows_min`: fewer are taken one by one, which
    changes nothing but how long it takes."""

    def __init__(self, rulebook: Rulebook, items_max: int, policy: Policy = unanswered) -> None:
        super().__init__(rulebook, items_max, policy)
        self.rows_min = ROWS_MIN
        self._woken: list[int] = []
        payables = [terms.payable for terms in rulebook.register.values() if hasattr(terms, "payable")]
        self._plan = plan(rulebook, self._links, payables)
        self._opened = np.array([len(links.opened) for links in self._links.values()])
        uses = [rulebook.item[name].use for name in self._plan.items]
        self._exists, self._in_parts = np.array([(use == "exists", use == "part") for use in uses], bool).T

    def take_all(self, frame: pl.DataFrame, since_ms: np.ndarray) -> Taken:
        """Match new events (rows with the columns MATCHED), which wait since their times."""
        if self.few(len(frame)):
            return self.take_each(events_of(frame), since_ms)
        progress = self._begin(frame, since_ms)
        self._open_plain(progress)
        self._use_plain(progress)
        self._take_odd(progress)
        waiting = self._add_up(progress)
        self._wait(progress, waiting)
        return self._taken(progress, waiting)

    def few(self, rows: int) -> bool:
        """Whether so many rows are quicker one by one."""
        return rows < self.rows_min

    def take_each(self, events: Sequence[Event], since_ms: np.ndarray) -> Taken:
        """The same of few events, in turn."""
        changes = []
        for event, since in zip(events, since_ms.tolist(), strict=True):
            changes += self.take(event, since)
        return Taken(np.empty(0, np.int64), last_of(changes), {event.id: at for at, event in enumerate(events)})

    def _begin(self, frame: pl.DataFrame, since_ms: np.ndarray) -> _Progress:
        rows, count = LinkedRows(self._plan, frame), len(frame)
        return _Progress(
            rows,
            since_ms,
            opened=np.full(count, NONE),
            odd=~self._plan.whole[rows.kind],
            refused=np.zeros(count, bool),
            turn=2 * np.arange(count),
            group_minor=rows.amount_minor * np.where(self._plan.closes, 1, self._plan.sign)[rows.kind],
            changed={},
            served={},
        )

    def _taken(self, progress: _Progress, waiting: np.ndarray) -> Taken:
        """What became of all. Those that wait are known by having a waiter."""
        ids, odd = progress.rows.frame["id_hash"], np.flatnonzero(progress.odd)
        is_ready = ~progress.odd
        is_ready[waiting] = False
        is_ready[odd] = [id not in self.waiters for id in ids.gather(odd)]
        ready = np.flatnonzero(is_ready)
        ready = ready[np.lexsort((ready, progress.turn[ready]))]
        places = np.concatenate([odd[~is_ready[odd]], waiting])
        here, last = set(ids.gather(odd[is_ready[odd]])), last_of(self.drain())
        changes = {id: last[id] for id in sorted(last, key=progress.changed.__getitem__) if id not in here}
        others = [id for id, change in changes.items() if change.state == "ready"]
        before = np.searchsorted(progress.turn[ready], [progress.changed[id][0] for id in others])
        return Taken(
            ready,
            changes,
            dict(zip(ids.gather(places), places.tolist(), strict=True)),
            dict(zip(others, before.tolist(), strict=True)),
        )

    # ── items ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _open_plain(self, progress: _Progress) -> None:
        """Open the items of rows that alone ask for a new key nobody waits for; the others are odd."""
        rows, opens = progress.rows, self._plan.opens
        places = rows.linked(opens)
        progress.odd[places] = True
        if len(self.items) + self._opened[rows.kind].sum() > self._items_max:
            return
        keys = rows.items(opens, places)
        plain = ~rows.unnamed(opens, places) & (self.items.rows_of(keys) == NONE) & _alone(keys.hash)
        if self._consumers:
            plain &= np.array([key not in self._consumers for key in keys.pairs()], bool)
        places, keys = places[plain], keys.of(plain)
        labels, number = rows.labels(places)
        numbers = np.array([self.items.label_of(label) for label in labels], np.int32)[number]
        event_ids = rows.frame["event_id"].gather(places).to_list()
        first = self.items.open(keys, numbers, rows.amount_minor[places], progress.since_ms[places], event_ids)
        progress.opened[places] = first + np.arange(len(places))
        progress.odd[places] = False

    def _use_plain(self, progress: _Progress) -> None:
        """Use items that are there and that all their users of this step fit into; other users are odd."""
        rows, uses = progress.rows, self._plan.uses
        places = rows.linked(uses)
        found = self.items.rows_of(rows.items(uses, places))
        is_there = found != NONE
        progress.odd[places[~is_there]] = True
        places, found = places[is_there], found[is_there]
        fit = self._fit_together(rows, places, found)
        progress.odd[places[~fit]] = True
        plain = ~progress.odd[places]
        places, found = places[plain], found[plain]
        taken_minor = np.where(self._exists[uses.name[rows.kind[places]]], 0, rows.amount_minor[places])
        np.add.at(self.items.used_minor, found, taken_minor)
        self._note_openers(progress, places, found)

    def _fit_together(self, rows: LinkedRows, places: np.ndarray, found: np.ndarray) -> np.ndarray:
        """Whether each row's item has room for all rows that use it, so that their order does not matter."""
        items, number, users = np.unique(found, return_inverse=True, return_counts=True)
        table, asked_minor = self.items, rows.amount_minor[places]
        sum_minor, least_minor = np.zeros(len(items), np.int64), np.full(len(items), np.iinfo(np.int64).max)
        np.add.at(sum_minor, number, asked_minor)
        np.minimum.at(least_minor, number, asked_minor)
        amount_minor, used_minor = table.amount_minor[items], table.used_minor[items]
        part = (sum_minor <= amount_minor - used_minor) & ((least_minor >= 0) | (users == 1))
        whole = (sum_minor == amount_minor) & (used_minor == 0) & (users == 1)
        name = self._plan.uses.name[rows.kind[places]]
        fit = np.where(self._in_parts[name], part[number], whole[number]) & ~table.flagged[found]
        currencies = [xxhash.xxh64_intdigest(label.currency.encode()) for label in table.labels]
        foreign = np.array(currencies, np.uint64)[table.label[found]] != rows.currency[places]
        fit &= np.bincount(number, foreign, len(items))[number] == 0
        return fit | self._exists[name]

    def _note_openers(self, progress: _Progress, places: np.ndarray, found: np.ndarray) -> None:
        """Rows that came before who opened their item became ready in its turn."""
        openers = np.flatnonzero(progress.opened != NONE)
        by_item = openers[np.argsort(progress.opened[openers])]
        at = np.searchsorted(progress.opened[by_item], found)
        new = at < len(by_item)
        new[new] = progress.opened[by_item[at[new]]] == found[new]
        opener = np.full(len(places), NONE)
        opener[new] = by_item[at[new]]
        later = opener > places
        progress.turn[places[later]] = 2 * opener[later] + 1

    def _take_odd(self, progress: _Progress) -> None:
        """Take the items of odd rows one by one. Their groups are added up with all others."""
        odd = np.flatnonzero(progress.odd)
        events = events_of(progress.rows.frame[odd])
        place_of = {event.id: place for event, place in zip(events, odd.tolist(), strict=True)}
        openers = np.flatnonzero(progress.opened != NONE)
        opener_of = dict(zip(progress.opened[openers].tolist(), openers.tolist(), strict=True))
        for event, place in zip(events, odd.tolist(), strict=True):
            told, self._woken = len(self._changes), []
            self._take_one(event, place, progress)
            waiter = self.waiters.get(event.id)
            came_at = opener_of.get(self._row_needed(event), NONE)
            if came_at > place and (waiter is None or waiter.fault or not waiter.item):
                progress.turn[place] = 2 * came_at + 1
            woken = {id: (2 * place + 1, number) for number, id in enumerate(self._woken)}
            for id, moment in woken.items():
                if id in self.waiters and self.waiters[id].item:
                    continue  # held, or at fault
                if id in place_of:
                    progress.turn[place_of[id]] = moment[0]
                else:
                    progress.served[id] = moment
            own = int(progress.turn[place]) if waiter and waiter.fault else 2 * place
            progress.changed.update((one.id, woken.get(one.id, (own, 0))) for one in self._changes[told:])

    def _row_needed(self, event: Event) -> int:
        """The row of the item that an event needs; NONE if it needs none, or it is not there."""
        ref = self._links[event.kind].consumes or self._links[event.kind].releases
        return self.items.row_of(self._key(event, ref)) if ref else NONE

    def _take_one(self, event: Event, place: int, progress: _Progress) -> None:
        since = int(progress.since_ms[place])
        links, waiter = self._links[event.kind], self._waiter(event, since)
        if progress.opened[place] != NONE:
            self._need_item(event, waiter, links.consumes)
        else:
            waiter.fault = self._refusal(event, links)
            if waiter.fault:
                self._tell(event.id, waiter)
                progress.refused[place] = True
                return
            self._link_items(event, waiter, links, since)
        self._name_group(event, waiter, links)
        progress.group_minor[place] = waiter.group_minor
        self._settled(event, links)

    def _wake(self, key: Key) -> None:
        """As always, and note who was woken."""
        self._woken += self._consumers.get(key_of(shared(key)), ())
        super()._wake(key)

    # ── groups ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _add_up(self, progress: _Progress) -> np.ndarray:
        """Add rows to their groups, in order; the places of plain ones that wait for theirs to be whole.

        A group frees all that came until it last tied; what came after that waits.
        """
        rows = progress.rows
        places = rows.linked(self._plan.joins)
        places = places[~progress.refused[places] & ~rows.unnamed(self._plan.joins, places)]
        if not len(places):
            return places
        sums = self._sums(progress, places)
        groups = self._groups_of(progress, sums.places[sums.starts])
        lacking_minor = np.array([_lacking(group) for group in groups], np.int64)[sums.group]
        is_closed = np.array([group.closers > 0 for group in groups], bool)[sums.group] | (sums.closers > 0)
        ties = is_closed & (lacking_minor == sums.member_minor - sums.total_minor)
        last = np.maximum.reduceat(np.where(ties, np.arange(len(ties)), NONE), sums.starts)
        ids = rows.frame["id_hash"].gather(sums.places)
        is_free = np.arange(len(ties)) <= last[sums.group]
        freed, tie = sums.places[is_free], np.where(ties, np.arange(len(ties)), len(ties))
        tie = np.minimum.accumulate(tie[::-1])[::-1]  # the next one, for each row
        progress.turn[freed] = np.maximum(progress.turn[freed], 2 * sums.places[tie[is_free]])
        waited = self._book(groups, sums, last, tie[sums.starts], ids.to_list())
        moments = {id: max((turn, 0), progress.served.get(id, (0, 0))) for id, turn in waited}
        odd = is_free & progress.odd[sums.places]
        moments |= {id: (turn, 0) for id, turn in zip(ids.filter(odd), progress.turn[sums.places[odd]], strict=True)}
        for member, moment in moments.items():
            told = len(self._changes)
            self._free(member)
            progress.changed.update((change.id, moment) for change in self._changes[told:])
        waiting = np.sort(sums.places[~is_free])
        return waiting[~progress.odd[waiting]]

    def _sums(self, progress: _Progress, places: np.ndarray) -> _Sums:
        keys = progress.rows.groups(places)
        order = np.lexsort((keys.check, keys.hash))
        keys, places = keys.of(order), places[order]
        differs = (keys.hash[1:] != keys.hash[:-1]) | (keys.check[1:] != keys.check[:-1])
        starts = np.flatnonzero(np.append(True, differs))
        ends = np.append(starts[1:], len(places))
        group = np.repeat(np.arange(len(starts)), ends - starts)
        closes, minor = self._plan.closes[progress.rows.kind[places]], progress.group_minor[places]
        running = (np.where(closes, 0, minor), np.where(closes, minor, 0), closes)
        return _Sums(places, starts, ends, *(_running(values, starts, group) for values in running), group)

    def _groups_of(self, progress: _Progress, firsts: np.ndarray) -> list[GroupSum]:
        """The groups that these rows join, each new since its row."""
        events = events_of(progress.rows.frame[firsts])
        since_ms = progress.since_ms[firsts].tolist()
        return [
            self._group(event, self._links[event.kind], since) for event, since in zip(events, since_ms, strict=True)
        ]

    def _book(
        self, groups: list[GroupSum], sums: _Sums, last: np.ndarray, first: np.ndarray, ids: list[int]
    ) -> list[tuple[int, int]]:
        """Put sums into their groups, which tied last and first at these rows; the members that had waited in them
        before and are free, with their turns."""
        free: list[tuple[int, int]] = []
        spans = zip(groups, sums.starts.tolist(), sums.ends.tolist(), last.tolist(), first.tolist(), strict=True)
        for group, start, end, tie, freeing in spans:
            member_minor = int(sums.member_minor[end - 1])
            group.total_minor += int(sums.total_minor[end - 1])
            group.closers += int(sums.closers[end - 1])
            if tie == NONE:
                group.waiting_minor += member_minor
                group.waiting += ids[start:end]
                continue
            free += [(member, 2 * int(sums.places[freeing])) for member in group.waiting]
            group.unbooked += len(group.waiting) + tie + 1 - start
            tied_minor = int(sums.member_minor[tie])
            group.booked_minor += group.waiting_minor + tied_minor
            group.waiting, group.waiting_minor = ids[tie + 1 : end], member_minor - tied_minor
        return free

    def _wait(self, progress: _Progress, places: np.ndarray) -> None:
        """Let plain rows wait, which have their items and lack only their groups."""
        used = self._plan.uses.name[progress.rows.kind[places]] != NOTHING
        events = events_of(progress.rows.frame[places])
        progress.changed.update(
            (event.id, (turn, 0)) for event, turn in zip(events, (2 * places).tolist(), strict=True)
        )
        for event, since, uses in zip(events, progress.since_ms[places].tolist(), used.tolist(), strict=True):
            waiter, links = self._waiter(event, since), self._links[event.kind]
            self._name_group(event, waiter, links)
            if uses and event.key(links.consumes):
                waiter.item_minor = event.amount_minor
            self._settle(event.id)


def events_of(rows: pl.DataFrame) -> list[Event]:
    """Rows with the columns MATCHED as events."""
    return [Event(*row) for row in tuples_of(rows.select(MATCHED))]


def _alone(values: np.ndarray) -> np.ndarray:
    """Which of the values are there once."""
    _, number, count = np.unique(values, return_inverse=True, return_counts=True)
    return count[number] == 1


def _running(values: np.ndarray, starts: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Running sums within each group."""
    sums = np.cumsum(values)
    return sums - (sums[starts] - values[starts])[group]


def _lacking(group: GroupSum) -> int:
    """What the members to come must add up to, as far as is known."""
    return group.total_minor - group.booked_minor - group.waiting_minor
