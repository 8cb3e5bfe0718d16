"""Which rule a row falls under and which account a role of it is, searched anew for every row."""

from datetime import date
from typing import Any

from runtime.ledger.rules import Rule, Rulebook
from simulation.auditor.amounts import attributes_of

Row = dict[str, Any]
ANY_ENTITY = "*"
ANSWERED_MAX = 200_000  # answers kept
SCOPES = ("counterparty", "facility", "department")  # most telling first, after the entity


class Accounts:
    """The crosswalk as a list of rows."""

    def __init__(self, rulebook: Rulebook) -> None:
        self._rulebook = rulebook
        self._versions: list[int] = []
        self.newest = 0
        self._by_role: dict[str, list[tuple[int, Row]]] = {}
        self._answered: dict[tuple, str | None] = {}  # what was asked before, until the next version comes

    def take(self, version: int, rows: list[Row]) -> bool:
        """Add a version; False when it is known."""
        if version in self._versions:
            return False
        self._versions.append(version)
        self.newest = max(self._versions)
        for row in rows:
            self._by_role.setdefault(row["role"], []).append((version, row | {"begins": _begins(row)}))
        self._answered.clear()
        return True

    def of(self, role: str, row: Row, on: date) -> str | None:
        """The answer to a plain role for this row on that day, by the versions up to the row's `newest`, or all."""
        asked = (role, on, row["entity"], row["counterparty"], row["facility"], row["department"], row.get("newest"))
        if asked not in self._answered:
            if len(self._answered) >= ANSWERED_MAX:
                self._answered.clear()
            self._answered[asked] = self._search(role, row, on)
        return self._answered[asked]

    def _search(self, role: str, row: Row, on: date) -> str | None:
        best: tuple | None = None
        for version, mapped in self._by_role.get(role, ()):
            if version > row.get("newest", version) or not _holds(mapped, row, on):
                continue
            entity = mapped.get("entity", ANY_ENTITY)
            rank = (entity != ANY_ENTITY, *(mapped.get(name, "") != "" for name in SCOPES), mapped["begins"], version)
            if best is None or rank > best[0]:
                best = (rank, mapped["account"])
        return best[1] if best else None

    def since(self, version: int) -> list[int]:
        """The versions from that one on."""
        return sorted(one for one in self._versions if one >= version)

    def policy(self, name: str, row: Row, on: date) -> str:
        """A policy's value, its default where nobody has set it."""
        chosen = self.of(name, row, on)
        default = self._rulebook.policy[name].default if name in self._rulebook.policy else ""
        return default if chosen is None else chosen

    def payer(self, row: Row, on: date | None = None, alias: str = "PAYER_ALIAS") -> str:
        """The usual name of a row's counterparty, everywhere in an entity, on a day: the row's own or this one."""
        anywhere = row | {"facility": None, "department": None}
        return self.policy(alias, anywhere, on or row["effective_on"]) or row["counterparty"] or ""

    def lines(
        self, rule: Rule, row: Row, on: date, amounts: list[int], measured: bool
    ) -> tuple[list[tuple[str, str, str, str, int]], tuple[str, str]]:
        """(role, account, variance, side, amount) of each line; or none, and a role without account, its exception."""
        lines = []
        for pair, amount in zip(rule.post, amounts, strict=True):
            if measured and not amount:
                continue
            for name, variance, side in ((pair.debit, pair.variance, "D"), (pair.credit, "", "C")):
                role = self._actual(name, row, on)
                account = self.of(role, row, on)
                if account is None:
                    return [], (role, self._missing(role))
                lines.append((role, account, variance, side, amount))
        for role in rule.maps:
            if role not in self._rulebook.role and self.of(role, row, on) is None:
                return [], (role, self._missing(role))
        return lines, ("", "")

    def stranger(self, row: Row) -> str:
        """The exception of a row that names a partner whom nobody knows; "" for none."""
        for name in self._rulebook.kind[row["kind"]].maps:
            role = self._rulebook.role.get(name)
            listed = {mapped.get("entity", ANY_ENTITY) for _, mapped in self._by_role.get(name, ())}
            if role is None or role.by != "known" or listed.isdisjoint([ANY_ENTITY, row["entity"]]):
                continue
            attributes = attributes_of(row)
            named = {"counterparty": attributes.get(role.named_by)} if role.named_by else {}
            if self.of(name, row | named, row["effective_on"]) is None:
                return role.missing
        return ""

    def _missing(self, role: str) -> str:
        role = role.split("/")[0]
        named = self._rulebook.role[role].missing if role in self._rulebook.role else ""
        return named or "mapping_missing"

    def _actual(self, name: str, row: Row, on: date) -> str:
        if name not in self._rulebook.role:
            return name
        role = self._rulebook.role[name]
        if role.by == "payer":
            case = "patient" if row["counterparty"] is None else "insurer"
        elif role.by == "reason":
            code = row["reason"] or ""
            return role.cases.get(code) or role.default or f"{name}/{code}"
        else:
            case = self.of(role.policy, row, on) or role.default
        return role.cases.get(case, name)

    def rule_of(self, row: Row) -> Rule | None:
        """The rule of a row, None where its code is in no table."""
        kind = self._rulebook.kind[row["kind"]]
        if not kind.classify:
            return kind
        code = row["reason"] or ""
        if kind.classify_by == "account":
            code = "empty" if row["account"] is None else "filled"
        codes, best = self._rulebook.table[kind.classify].codes, ""
        told = attributes_of(row).get(kind.refined_by) if kind.refined_by else None
        pairs = [f"{code}/{one}" for one in told if isinstance(one, str)] if isinstance(told, list) else []
        for asked in (*pairs, code):
            chosen = self.of(f"CLASS_{kind.classify}/{asked}", row | {"department": None}, row["effective_on"])
            if chosen in kind.case:
                return kind.case[chosen]
        for pair in pairs:
            if pair in codes:
                return kind.case[codes[pair]]
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
        and mapped["begins"] <= on
    )
