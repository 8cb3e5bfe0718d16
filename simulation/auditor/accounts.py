"""Which rule a row falls under and which account a role of it is, searched anew for every row."""

from datetime import date
from typing import Any

from runtime.ledger.rules import Rule, Rulebook

Row = dict[str, Any]
ANY_ENTITY = "*"


class Accounts:
    """The crosswalk as a list of rows."""

    def __init__(self, rulebook: Rulebook) -> None:
        self._rulebook = rulebook
        self._versions: list[int] = []
        self._rows: list[tuple[int, Row]] = []

    def take(self, version: int, rows: list[Row]) -> bool:
        """Add a version; False when it is known."""
        if version in self._versions:
            return False
        self._versions.append(version)
        self._rows += [(version, row) for row in rows]
        return True

    def of(self, role: str, row: Row, on: date) -> str | None:
        """The account of a plain role for this row on that day."""
        best: tuple | None = None
        for version, mapped in self._rows:
            if mapped["role"] != role or not _holds(mapped, row, on):
                continue
            entity, facility, department, valid_from = _scope(mapped)
            rank = (entity != ANY_ENTITY, facility != "", department != "", valid_from, version)
            if best is None or rank >= best[0]:
                best = (rank, mapped["account"])
        return best[1] if best else None

    def lines(self, rule: Rule, row: Row, on: date) -> tuple[list[tuple[str, str, str]], str]:
        """(role, account, side) of each line, or no lines and the first role that has no account."""
        lines = []
        for pair in rule.post:
            for name, side in ((pair.debit, "D"), (pair.credit, "C")):
                role = self._actual(name, row, on)
                account = self.of(role, row, on)
                if account is None:
                    return [], role
                lines.append((role, account, side))
        return lines, ""

    def _actual(self, name: str, row: Row, on: date) -> str:
        if name not in self._rulebook.role:
            return name
        role = self._rulebook.role[name]
        if role.by == "payer":
            case = "patient" if row["counterparty"] is None else "insurer"
        elif role.by == "reason":
            case = row["reason"] or ""
        else:
            case = self.of(role.policy, row, on) or role.default
        return role.cases.get(case, name)


def _scope(mapped: Row) -> tuple[str, str, str, date]:
    valid_from = mapped.get("valid_from", "1900-01-01")
    begins = valid_from if isinstance(valid_from, date) else date.fromisoformat(valid_from)
    return mapped.get("entity", ANY_ENTITY), mapped.get("facility", ""), mapped.get("department", ""), begins


def _holds(mapped: Row, row: Row, on: date) -> bool:
    entity, facility, department, valid_from = _scope(mapped)
    return (
        entity in (ANY_ENTITY, row["entity"])
        and facility in ("", row["facility"] or "")
        and department in ("", row["department"] or "")
        and valid_from <= on
    )


def rule_of(rulebook: Rulebook, row: Row) -> Rule | None:
    """The rule of a row, None where its code is in no table."""
    kind = rulebook.kind[row["kind"]]
    if not kind.classify:
        return kind
    code, codes, best = row["reason"] or "", rulebook.table[kind.classify].codes, ""
    if code in codes:
        return kind.case[codes[code]]
    for pattern in codes:
        if pattern[-1:] == "*" and code[: len(pattern) - 1] == pattern[:-1] and len(pattern) > len(best):
            best = pattern
    return kind.case[codes[best]] if best else None
