"""The crosswalk as its maintainers hand it in: a first version, in which something may be missing, and later ones.

Owns the accounts, partners, aliases and answers to policies that are made up. Never decides when a version comes.
"""

import random

from runtime.ledger.order_lines import LEVELS, OrderTerms
from runtime.ledger.rules import KNOWN, Rulebook
from simulation.workload.rows import ENTITIES, PARTNERS, UNKNOWN_CODE, Row

SET = 0.3  # of policies: somebody has answered them
UNMATCHED_CLAIM, AS_KNOWN, UNAPPLIED = "POLICY_UNMATCHED_CLAIM", "AR", "UNAPPLIED"
ALIASES = ("PAYER_ALIAS", "SUPPLIER_ALIAS")
UNREADABLE = "OTHER"
PERCENTS = ("0", "2.5", "60", "unlimited", UNREADABLE)
EXCESSES = ("0", "7", "600", "20000", "unlimited", UNREADABLE)  # in minor units, or in thousandths
BEGINNINGS = ("2026-08-01", "2026-09-10")  # of mappings; events are of days before, between and after them


class Mappings:
    """Makes up mapping versions."""

    def __init__(self, rulebook: Rulebook, rng: random.Random) -> None:
        self._rulebook, self._rng = rulebook, rng

    def versions(self, count: int) -> list[list[Row]]:
        """So many versions, one after another. What the first lacks, the second has."""
        roles = sorted(self._rulebook.roles())
        late = set(self._rng.sample(roles, k=min(len(roles), self._rng.choice((0, 2, 5)))))
        versions = [[mapping_row(role) for role in roles if role not in late] + self._particular(roles)]
        for _ in range(count - 1):
            versions.append([mapping_row(role) for role in sorted(late)] + self._particular(roles))
            versions[-1] += self._of_inverses()
            late = set()
        versions[0] += self._partners(first=True) + self._policies()
        versions[-1] += self._partners(first=False) + self._policies()
        versions[-1] += [mapping_row(f"{role}/{UNKNOWN_CODE}") for role in sorted(self._rulebook.by_code())]
        versions[0] += self._of_inverses()
        return versions

    def _partners(self, *, first: bool) -> list[Row]:
        """Partners whom some entities know: none or one at first, and all of them in the end."""
        rows = []
        for name in sorted(name for name, role in self._rulebook.role.items() if role.by == KNOWN):
            known = self._rng.sample(PARTNERS, k=self._rng.choice((0, 0, 1))) if first else PARTNERS
            rows += [
                mapping_row(name, counterparty=partner, entity=self._rng.choice(("*", *ENTITIES))) for partner in known
            ]
        return rows

    def _policies(self) -> list[Row]:
        """Answers to some of the policies, everywhere or at one entity; and who is another name of whom."""
        names = {name: answers for name, answers in policy_answers(self._rulebook).items() if self._rng.random() < SET}
        rows = [
            mapping_row(name, self._rng.choice(answers), entity=self._rng.choice(("*", *ENTITIES)))
            for name, answers in sorted(names.items())
        ]
        for name in (name for name in ALIASES if self._rng.random() < SET):
            one, other = self._rng.sample(PARTNERS, 2)
            rows.append(mapping_row(name, other, counterparty=one))
        return rows

    def _of_inverses(self) -> list[Row]:
        """Another account, from some day on, of what is taken back where it was posted."""
        kinds = [self._rulebook.kind[name] for name in sorted(self._rulebook.inverting())]
        rules = [rule for kind in kinds for rule in (kind, *kind.case.values())]
        roles = sorted({pair.credit for rule in rules for pair in rule.post})
        return [
            mapping_row(role, f"GL-{role}-{self._rng.randrange(3)}", valid_from=self._rng.choice(BEGINNINGS))
            for role in roles
            if self._rng.random() < SET
        ]

    def _particular(self, roles: list[str]) -> list[Row]:
        """Mappings that hold for some places or from some day."""
        rows = []
        for role in self._rng.sample(roles, k=min(len(roles), 6)):
            entity = self._rng.choice(("*", *ENTITIES))
            facility = self._rng.choice(("", *ENTITIES.get(entity, ("north",))))
            chosen = {
                "entity": entity,
                "facility": facility,
                "department": self._rng.choice(("", "", "lab")),
                "valid_from": self._rng.choice(("1900-01-01", *BEGINNINGS)),
            }
            rows.append(mapping_row(role, account=f"GL-{role}-{self._rng.randrange(3)}", **chosen))
        return rows


def policy_answers(rulebook: Rulebook) -> dict[str, tuple[str, ...]]:
    """What each policy may be answered with, but aliases; now and then something that no rule knows."""
    answers = {role.policy: (*sorted(role.cases), UNREADABLE) for role in rulebook.role.values() if role.policy}
    answers[UNMATCHED_CLAIM] = (AS_KNOWN, UNAPPLIED)
    for terms in (terms for terms in rulebook.register.values() if isinstance(terms, OrderTerms)):
        answers[terms.level_policy] = (*LEVELS, UNREADABLE)
        answers |= {check.percent: PERCENTS for check in terms.checks}
        answers |= {check.most: EXCESSES for check in terms.checks}
    return answers


def mapping_row(role: str, account: str = "", **columns: str) -> Row:
    """A row of a mapping version: a role's account, for all that the other columns leave open."""
    return {"role": role, "account": account or f"GL-{role}", **columns}
