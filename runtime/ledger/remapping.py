"""What an account that was posted to would be now: the crosswalk of then against the crosswalk of today.

Owns that comparison. A posted line keeps its role, account and mapping version, but not all that was known when the
crosswalk was asked (a facility that a rule drops, the counterparty); so every place that could have given this very
answer is asked again, and only one answer for all of them counts. Never guesses, and changes no line.
"""

from collections.abc import Iterable, Sequence
from datetime import date
from itertools import product
from typing import NamedTuple

from runtime.ledger.crosswalk import Crosswalk, CrosswalkRow, Mapped, Place


class PostedTo(NamedTuple):
    """Where a line was posted. An empty facility or department may have been dropped, so it stands for any."""

    role: str
    entity: str
    facility: str
    department: str
    on: date
    mapped: Mapped


class Ambiguous(ValueError):
    """One account stands for several now, and the line does not tell which."""


class Remapping:
    """Every mapping version in force, asked for what earlier answers are now."""

    def __init__(self, versions: Iterable[tuple[int, Sequence[CrosswalkRow]]]) -> None:
        self._versions = sorted((version, list(rows)) for version, rows in versions)
        self._now = self._up_to(self._versions[-1][0] if self._versions else 0)
        self._then: dict[int, Crosswalk] = {}
        self._known: dict[PostedTo, Mapped] = {}

    @property
    def version(self) -> int:
        """The newest version."""
        return self._now.version

    def now(self, posted: PostedTo) -> Mapped:
        """The answer of now; the old one where nothing is known that would give another. Raises Ambiguous."""
        if posted not in self._known:
            self._known[posted] = self._found(posted)
        return self._known[posted]

    def _found(self, posted: PostedTo) -> Mapped:
        then = self._of_then(posted.mapped.version)
        places = [place for place in self._places(posted) if then.resolve(posted.role, place) == posted.mapped]
        answers = {answer for place in places if (answer := self._now.resolve(posted.role, place)) is not None}
        accounts = {answer.account for answer in answers}
        if not accounts or accounts == {posted.mapped.account}:
            return posted.mapped
        if len(accounts) > 1:
            named = ", ".join(sorted(accounts))
            raise Ambiguous(f"account {posted.mapped.account} of role {posted.role} stands for several now: {named}")
        return max(answers, key=lambda answer: answer.version)

    def _places(self, posted: PostedTo) -> Iterable[Place]:
        """Each place that the line may be of, as far as mappings of its role tell places apart."""
        rows = [row for _, of_version in self._versions for row in of_version if row.role == posted.role]
        facilities = [posted.facility] if posted.facility else sorted({"", *(row.facility for row in rows)})
        departments = [posted.department] if posted.department else sorted({"", *(row.department for row in rows)})
        counterparties = sorted({"", *(row.counterparty for row in rows)})
        for facility, department, counterparty in product(facilities, departments, counterparties):
            yield Place(posted.entity, facility, department, posted.on, counterparty)

    def _of_then(self, version: int) -> Crosswalk:
        """The crosswalk when that version was the newest: a later one only takes answers away from it."""
        if version not in self._then:
            self._then[version] = self._up_to(version)
        return self._then[version]

    def _up_to(self, newest: int) -> Crosswalk:
        crosswalk = Crosswalk()
        for version, rows in self._versions:
            if version <= newest:
                crosswalk.apply(version, rows)
        return crosswalk
