"""Makes a Tryton database ready for journals: companies, charts, accounts, fiscal years.

Owns what the embedded ERP is given on its first start, and completes it on every later one.
Never changes or removes what is there, and never posts.
"""

from collections.abc import Iterable, Sequence
from datetime import date
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from adapters.erp.tryton_rpc import TrytonSession
from runtime.currencies import currency_digits
from runtime.errors import ErpError

# A company belongs to an entity by this code among its party's identifiers, whatever the party is called.
IDENTIFIER_PREFIX = "penstock:"
_CHART = "account_template_root_en"


class CompanySpec(msgspec.Struct, frozen=True, kw_only=True):
    """What one entity's company must have. `accounts` pairs roles with account codes; a role may have several."""

    entity: str
    name: str
    currency: str
    opens_on: date
    years: tuple[int, ...]
    accounts: tuple[tuple[str, str], ...]


class _Kind(NamedTuple):
    """Names in the chart's template: what a role's account is on the balance sheet, and where it hangs."""

    type: str
    parent: str


# None of these types is receivable or payable: Tryton would demand a party on every line, and we send none.
_ASSET = _Kind("account_type_template_current_assets_en", "account_template_1_2_0_en")
_CASH = _Kind("account_type_template_cash_en", "account_template_1_1_0_en")
_LIABILITY = _Kind("account_type_template_current_liabilities_en", "account_template_2_0_0_en")
_REVENUE = _Kind("account_type_template_revenue_en", "account_template_4_0_0_en")
_EXPENSE = _Kind("account_type_template_sga_en", "account_template_5_0_0_en")
_KINDS = {
    "CASH": _CASH,
    "GROSS_REV": _REVENUE,
    "CONTRACTUAL": _REVENUE,
    "MERCHANT_FEES": _EXPENSE,
    "CHARGEBACK_FEES": _EXPENSE,
    "SEQUESTRATION": _REVENUE,
    "INTEREST_INCOME": _REVENUE,
    "CAPITATION_REV": _REVENUE,
    "INCENTIVE_REV": _REVENUE,
    "LEVY_EXPENSE": _EXPENSE,
    "PAYER_DISCOUNT": _EXPENSE,
    "REBATE": _EXPENSE,
    "TAX_WITHHELD": _EXPENSE,
    "PT_CREDIT": _LIABILITY,
    "REFUND_PAYABLE": _LIABILITY,
    "PAYER_TAKEBACK": _LIABILITY,
    "PAYER_ADVANCE": _LIABILITY,
    "SETTLEMENT_PAYABLE": _LIABILITY,
    "COST_REPORT_SETTLEMENT": _LIABILITY,
    "UNAPPLIED_CASH": _LIABILITY,
    "AR_UNAPPLIED": _LIABILITY,
    "AP": _LIABILITY,
    "GRNI": _LIABILITY,
    "ACCRUED": _LIABILITY,
    "DUE_TO": _LIABILITY,
    "SUSPENSE": _LIABILITY,
    "CHARITY": _REVENUE,
    "ADMIN_ADJ": _REVENUE,
    "DENIAL_ADJ": _REVENUE,
    "IPC": _REVENUE,
    "BAD_DEBT": _EXPENSE,
    "SUPPLY_EXPENSE": _EXPENSE,
    "PURCHASE_EXPENSE": _EXPENSE,
    "PURCHASED_SERVICES": _EXPENSE,
    "PURCHASE_DISCOUNT": _EXPENSE,
    "PPV": _EXPENSE,
    "TAX": _EXPENSE,
    "FREIGHT": _EXPENSE,
    "OTHER_CHARGES": _EXPENSE,
}  # any other role is an asset

_CURRENCY_NAMES = {"USD": "US Dollar", "EUR": "Euro", "GBP": "Pound Sterling", "CHF": "Swiss Franc"}


def set_up(session: TrytonSession, specs: Sequence[CompanySpec]) -> None:
    """Create what is missing of these companies. Raises ErpError."""
    for spec in specs:
        company = find_company(session, spec.entity) or _create_company(session, spec)
        _ensure_access(session, company)
        _ensure_chart(session, company)
        _ensure_accounts(session, company, spec.accounts)
        _ensure_years(session, company, spec)
        _close_before(session, company, spec.opens_on)


def find_company(session: TrytonSession, entity: str) -> int | None:
    """The id of the entity's company. Raises ErpError when two claim it."""
    domain = [["party.identifiers.code", "=", IDENTIFIER_PREFIX + entity]]
    found = session.read("model.company.company.search", domain, 0, None, None)
    if len(found) > 1:
        raise ErpError(f"several Tryton companies carry the identifier {IDENTIFIER_PREFIX}{entity}; keep one")
    return found[0] if found else None


def _create_company(session: TrytonSession, spec: CompanySpec) -> int:
    currency = _ensure_currency(session, spec.currency)
    identifiers = [["create", [{"code": IDENTIFIER_PREFIX + spec.entity}]]]
    party = _create(session, "party.party", {"name": spec.name, "identifiers": identifiers})
    return _create(session, "company.company", {"party": party, "currency": currency, "timezone": "UTC"})


def _ensure_currency(session: TrytonSession, code: str) -> int:
    found = session.read("model.currency.currency.search", [["code", "=", code]], 0, 1, None)
    if found:
        return found[0]
    digits = currency_digits(code)
    values = {"name": _CURRENCY_NAMES.get(code, code), "code": code, "symbol": code, "digits": digits}
    return _create(session, "currency.currency", {**values, "rounding": Decimal(1).scaleb(-digits)})


def _ensure_access(session: TrytonSession, company: int) -> None:
    """Let the user see this company beside its others: with the filter "one", lookups would miss the others' moves."""
    preferences = session.preferences()
    if company in preferences["companies"] and preferences["company_filter"] == "all":
        return
    [user] = session.read("model.res.user.search", [["login", "=", session.user]], 0, 1, None)
    values = {"companies": [["add", [company]]], "company": company, "company_filter": "all"}
    session.call("model.res.user.write", [user], values)
    session.refresh()


def _ensure_chart(session: TrytonSession, company: int) -> None:
    if session.read("model.account.account.search", [["company", "=", company]], 0, 1, None, company=company):
        return
    template = session.read("model.ir.model.data.get_id", f"account.{_CHART}")
    wizard = session.call("wizard.account.create_chart.create")[0]

    def step(data: dict[str, Any], state: str) -> None:
        session.call("wizard.account.create_chart.execute", wizard, data, state, company=company)

    step({}, "account")
    step({"account": {"company": company, "account_template": template}}, "create_account")
    defaults = {f"account_{kind}": _party_account(session, company, kind) for kind in ("receivable", "payable")}
    step({"properties": {"company": company, **defaults}}, "create_properties")
    session.call("wizard.account.create_chart.delete", wizard)


def _party_account(session: TrytonSession, company: int, kind: str) -> int:
    domain = [["company", "=", company], [f"type.{kind}", "=", True], ["party_required", "=", True]]
    return session.read("model.account.account.search", domain, 0, 1, None, company=company)[0]


def _ensure_accounts(session: TrytonSession, company: int, accounts: Iterable[tuple[str, str]]) -> None:
    roles = {code: role for role, code in reversed(tuple(accounts))}
    _refuse_unpostable(session, company, roles)
    there = {a["code"] for a in _accounts(session, company, [["code", "in", list(roles)]])}
    missing = {code: role for code, role in roles.items() if code not in there}
    if missing:
        kinds = {role: _KINDS.get(role, _ASSET) for role in missing.values()}
        places = {kind: _place_of(session, company, kind) for kind in set(kinds.values())}
        values = [_account_values(company, code, role, places[kinds[role]]) for code, role in missing.items()]
        session.call("model.account.account.create", values, company=company)


def _refuse_unpostable(session: TrytonSession, company: int, roles: dict[str, str]) -> None:
    unfit = ["OR", ["type", "=", None], ["party_required", "=", True]]
    found = _accounts(session, company, [["code", "in", list(roles)], unfit])
    if found:
        raise ErpError(f"account {found[0]['code']} is a heading or demands a party; map another account to the role")


def _place_of(session: TrytonSession, company: int, kind: _Kind) -> dict[str, int]:
    return {
        "type": _from_template(session, "account.account.type", company, kind.type),
        "parent": _from_template(session, "account.account", company, kind.parent),
    }


def _account_values(company: int, code: str, role: str, place: dict[str, int]) -> dict[str, Any]:
    name = role.replace("_", " ").capitalize()
    return {"company": company, "code": code, "name": name, "party_required": False, "reconcile": False, **place}


def _from_template(session: TrytonSession, model: str, company: int, template: str) -> int:
    template_id = session.read("model.ir.model.data.get_id", f"account.{template}")
    domain = [["company", "=", company], ["template", "=", template_id]]
    return session.read(f"model.{model}.search", domain, 0, 1, None, company=company)[0]


def _accounts(session: TrytonSession, company: int, domain: list[Any]) -> list[dict[str, Any]]:
    whole = [["company", "=", company], *domain]
    return session.read("model.account.account.search_read", whole, 0, None, None, ["code"], company=company)


def _ensure_years(session: TrytonSession, company: int, spec: CompanySpec) -> None:
    domain = [["company", "=", company]]
    fields = ["start_date", "periods"]
    found = session.read("model.account.fiscalyear.search_read", domain, 0, None, None, fields, company=company)
    there = {year["start_date"].year for year in found}
    created = [_create_year(session, company, year) for year in sorted({*spec.years, spec.opens_on.year} - there)]
    # A year without periods is one whose set-up was interrupted.
    for fiscal_year in [*created, *(year["id"] for year in found if not year["periods"])]:
        session.call("model.account.fiscalyear.create_period", [fiscal_year], company=company)


def _create_year(session: TrytonSession, company: int, year: int) -> int:
    domain = [["name", "=", "Account Move"]]
    sequence_type = session.read("model.ir.sequence.type.search", domain, 0, 1, None)[0]
    # The prefix makes a move's number unique among the years of a company.
    sequence = {"name": f"Moves {year}", "sequence_type": sequence_type, "company": company, "prefix": f"{year}/"}
    values = {
        "name": str(year),
        "company": company,
        "start_date": date(year, 1, 1),
        "end_date": date(year, 12, 31),
        "move_sequence": _create(session, "ir.sequence.strict", sequence, company),
    }
    return _create(session, "account.fiscalyear", values, company)


def _close_before(session: TrytonSession, company: int, opens_on: date) -> None:
    domain = [["company", "=", company], ["state", "=", "open"], ["end_date", "<", opens_on]]
    periods = session.read("model.account.period.search", domain, 0, None, None, company=company)
    if periods:
        session.call("model.account.period.close", periods, company=company)


def _create(session: TrytonSession, model: str, values: dict[str, Any], company: int | None = None) -> int:
    context = {} if company is None else {"company": company}
    return session.call(f"model.{model}.create", [values], **context)[0]
