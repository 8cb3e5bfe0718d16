"""What the embedded Tryton must have, as the configuration says.

Owns how entities and their mapping become companies. Sets nothing up: `adapters.erp.tryton_setup` does.
"""

from datetime import UTC, datetime

from adapters import settings
from adapters.clock import WallClock
from adapters.erp.tryton_setup import CompanySpec
from runtime.config import Config
from runtime.ledger.rule_file import parse_rulebook


def companies(config: Config) -> list[CompanySpec]:
    """A company an entity, with every account that its mapping names.

    Not every row names one: policies and partners are rows, too.
    """
    roles = parse_rulebook(settings.load_rulebook_text(config)).roles()
    this_year = datetime.fromtimestamp(WallClock().now_ms() / 1000, UTC).year
    specs = []
    for name, entity in config.entities.items():
        named = [row for row in config.mapping if row.entity in ("*", name) and row.role in roles]
        accounts = sorted({(row.role, row.account) for row in named})
        specs.append(
            CompanySpec(
                entity=name,
                name=entity.name,
                currency=entity.currency,
                opens_on=entity.opens_on,
                years=tuple(range(entity.opens_on.year, max(this_year, entity.opens_on.year) + 2)),
                accounts=tuple(accounts),
            )
        )
    return specs
