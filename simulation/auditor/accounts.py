"""Which rule a row falls under and which account a role of it is, searched anew for every row."""

from datetime import date
from typing import Any

from runtime.ledger.rules import Rule, Rulebook

Row = dict[str, Any]
ANY_ENTITY = "*"
SCOPES = ("counterparty", "facility", "department")  # most telling first, after the entity


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
        """The answer to a plain role for this row on that day."""
        best: tuple | None = None
        for version, mapped in self._rows:
            if mapped["role"] != role or not _holds(mapped, row, on):
                continue
            entity, begins = mapped.get("entity", ANY_ENTITY), _begins(mapped)
            rank = (entity != ANY_ENTITY, *(mapped.get(name, "") != "" for name in SCOPES), begins, version)
            if best is None or rank > best[0]:
                best = (rank, mapped["account"])
        return best[1] if best else None

    def policy(self, name: str, row: Row, on: date) -> str:
        """A policy's value, its default where nobody has set it."""
        chosen = self.of(name, row, on)
        default = self._rulebook.policy[name].default if name in self._rulebook.policy else ""
        return default if chosen is None else chosen

    def lines(
        self, rule: Rule, row: Row, on: date, amounts: list[int]
    ) -> tuple[list[tuple[str, str, str, int]], tuple[str, str]]:
        """(role, account, side, amount) of each line; or no lines, and a role that has no account and its exception."""
        lines = []
        for pair, amount in zip(rule.post, amounts, strict=True):
            if rule.measured and not amount:
                continue
            for name, side in ((pair.debit, "D"), (pair.credit, "C")):
                role = self._actual(name, row, on)
                account = self.of(role, row, on)
                if account is None:
                    return [], (role, self._missing(role))
                lines.append((role, account, side, amount))
        for role in rule.maps:
            if not self._is_known(role, row, on):
                return [], (role, self._missing(role))
        return lines, ("", "")

    def _is_known(self, role: str, row: Row, on: date) -> bool:
        asked = role in self._rulebook.role and self._rulebook.role[role].by == "known"
        if asked and not any(mapped["role"] == role for _, mapped in self._rows):
            return True
        return self.of(role, row, on) is not None

    def _missing(self, role: str) -> str:
        named = self._rulebook.role[role].missing if role in self._rulebook.role else ""
        return named or "mapping_missing"

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

    def rule_of(self, row: Row) -> Rule | None:
        """The rule of a row, None where its code is in no table."""
        kind = self._rulebook.kind[row["kind"]]
        if not kind.classify:
            return kind
        code, codes, best = row["reason"] or "", self._rulebook.table[kind.classify].codes, ""
        chosen = self.of(f"CLASS_{kind.classify}/{code}", row | {"department": None}, row["effective_on"])
        if chosen in kind.case:
            return kind.case[chosen]
        if code in codes:
            return kind.case[codes[code]]
        for pattern in codes:
            if pattern[-1:] == "*" and code[: len(pattern) - 1] == pattern[:-1] and len(pattern) > len(best):
                best = pattern
        return kind.case[codes[best]] if best else None


def _begins(mapped: Row) -> date:
    valid_from = mapped.get("valid_from", "1900-01-01")
    return valid_from if isinstance(valid_from, date) else date.fromisoformat(valid_from)


def _holds(mapped: Row, row: Row, on: date) -> bool:
    return (
        mapped.get("entity", ANY_ENTITY) in (ANY_ENTITY, row["entity"])
        and all(mapped.get(name, "") in ("", row[name] or "") for name in SCOPES)
        and _begins(mapped) <= on
    )
