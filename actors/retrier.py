"""The poster's second tries: what an ERP has rejected goes on by itself when what was wrong is mended.

Owns when the books are asked for rejected entries, and the two ways on. Under a mapping version that gives them other
accounts they are replaced by new postings: once a version, as the new postings are under that version. Otherwise one of
each reason is sent again now and then (`retrying` says when), and when the ERP takes it, so are the others. What a
crash takes is found again from the books.
"""

from collections.abc import Sequence

import msgspec
import structlog

from runtime.errors import GovernanceError
from runtime.flow.retrying import PROBE_EVERY_S, Reason, alike, probe
from runtime.ledger.compensation import is_restated, remapped, restatement
from runtime.ledger.crosswalk import CrosswalkRow
from runtime.ledger.remapping import Ambiguous, Remapping
from runtime.ports import Books, Delivery, JournalEntry, MappingVersion, Metrics, Outcome

LOOK_EVERY_S = 5.0
REJECTED_MAX = 10_000  # rejected entries looked at; people have more to say to so many than a runtime has
RESTATED_A_LOOK = 100


class Retrier:
    """Works for one owner and epoch, between the poster's calls."""

    def __init__(self, books: Books, owner: str, epoch: int, *, entities: Sequence[str], metrics: Metrics) -> None:
        self._books, self._owner, self._epoch, self._metrics = books, owner, epoch, metrics
        self._entities = tuple(entities)
        self._looked_ms = 0
        self._judged: dict[str, int] = {}  # rejected entries, and the version under which nothing of them changes
        self._probes: dict[str, Reason] = {}  # entries that are tried, each for all of its reason
        self._probed_ms = 0
        self._remapping: Remapping | None = None
        self._logger = structlog.get_logger("retrier")

    def look(self, now_ms: int) -> JournalEntry | None:
        """Let go on what may; an entry that is to be sent by itself, as it may be refused once more."""
        if now_ms - self._looked_ms < LOOK_EVERY_S * 1000:
            return None
        self._looked_ms = now_ms
        rejected = self._books.deliveries(self._entities, ["rejected"], REJECTED_MAX)
        keys = {delivery.entry.key for delivery in rejected}
        self._judged = {key: version for key, version in self._judged.items() if key in keys}
        restated = self._restate(rejected) if rejected else set()
        left = [delivery for delivery in rejected if delivery.entry.key not in restated]
        return self._probe(left, now_ms)

    def _probe(self, rejected: Sequence[Delivery], now_ms: int) -> JournalEntry | None:
        if now_ms - self._probed_ms < PROBE_EVERY_S * 1000:
            return None
        chosen = probe(alike(rejected), now_ms)
        if chosen is None or not self._retry([chosen[1].entry.key]):
            return None
        reason, delivery = chosen
        self._probes[delivery.entry.key], self._probed_ms = reason, now_ms
        return delivery.entry

    def heard(self, outcomes: Sequence[Outcome]) -> None:
        """What became of entries that were tried again: those that were refused for a reason that is gone follow."""
        for outcome in outcomes:
            if outcome.key not in self._probes or outcome.code not in ("posted", "rejected", "parked"):
                continue
            reason = self._probes.pop(outcome.key)
            if outcome.code == "posted":
                rejected = self._books.deliveries(self._entities, ["rejected"], REJECTED_MAX)
                self._retry([delivery.entry.key for delivery in alike(rejected).get(reason, [])])

    def _retry(self, keys: list[str]) -> int:
        retried = self._books.retry_rejected(self._owner, self._epoch, keys) if keys else 0
        if retried:
            self._metrics.count("entries_retried", retried)
        return retried

    def _restate(self, rejected: Sequence[Delivery]) -> set[str]:
        """Replace those that are under other accounts now; their keys."""
        remapping, restated = self._remapping_now(), set()
        for delivery in rejected:
            key = delivery.entry.key
            if self._judged.get(key, -1) >= remapping.version:
                continue
            if len(restated) >= RESTATED_A_LOOK:
                break
            if self._restate_one(delivery, remapping):
                restated.add(key)
            else:
                self._judged[key] = remapping.version
        return restated

    def _restate_one(self, delivery: Delivery, remapping: Remapping) -> bool:
        entry = delivery.entry
        postings = self._books.postings_of(entry)
        try:
            now = remapped(postings, remapping)
        except Ambiguous as error:
            self._logger.warning("restatement_ambiguous", key=entry.key, detail=str(error))
            return False
        if not is_restated(postings, now):
            return False
        try:
            self._books.correct_entry(entry.key, restatement(entry, now, entry.posted_on), self._owner)
        except GovernanceError:  # a person was quicker
            return False
        self._metrics.count("entries_restated")
        return True

    def _remapping_now(self) -> Remapping:
        versions = self._books.mapping_versions()
        if self._remapping is None or versions and versions[-1].version > self._remapping.version:
            self._remapping = remapping_of(versions)
        return self._remapping


def remapping_of(versions: Sequence[MappingVersion]) -> Remapping:
    """These versions, to be asked what accounts are now."""
    return Remapping((one.version, msgspec.json.decode(one.rows_json, type=list[CrosswalkRow])) for one in versions)
