"""The one typed configuration: entities, mappings, connections, limits.

Owns shapes and checks. Never reads a file or the environment: `adapters.settings` does, and hands the mapping in.
Errors name the key by its path in the file and what it should be.
"""

from datetime import date
from typing import Annotated, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from runtime.errors import ConfigError
from runtime.limits import Limits
from runtime.schema import EntityTerms

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
Port = Annotated[int, Field(ge=0, le=65535)]


class Section(BaseModel):
    """A part of the configuration; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RuntimeSection(Section):
    """Where Penstock keeps its data, and how many parts it has."""

    data_dir: str = ".penstock"
    shards: int = Field(default=4, ge=1, le=4096, description="fixed when the log is created")
    workers: int = Field(default=2, ge=1, le=256)
    ray_address: str = Field(default="", description="join this Ray cluster; empty starts a local one")
    dashboard_port: Port = 8265
    metrics_port: Port = 8269
    tick_s: float = Field(default=60.0, gt=0, description="how often time enters the log, for waiting items to age")


class LogSection(Section):
    """The event log: any Redis or Valkey >= 7 by URL; empty starts the embedded Valkey."""

    url: str = ""
    fsync: Literal["always", "everysec"] = "always"


class BooksSection(Section):
    """The books: an SQLAlchemy URL; empty means SQLite under data_dir."""

    url: str = ""


class ArchiveSection(Section):
    """Archive and snapshots: a folder; empty means data_dir/archive."""

    root: str = ""


class GatewaySection(Section):
    """The gRPC door."""

    host: str = Field(default="127.0.0.1", description="the interface to serve on")
    advertise: str = Field(default="", description="the host that clients are told; empty means host")
    port: Port = 7717
    count: int = Field(default=1, ge=1, le=64, description="gateway actors that share the port")


class FeedSection(Section):
    """One Redis stream to read events from."""

    name: Name
    stream: str
    group: Name = "penstock"
    url: str = Field(default="", description="another Redis than the log's")


class ErpSection(Section):
    """One ERP connection. Secrets come from a file or the environment, never from the configuration itself."""

    kind: Literal["tryton", "none"] = Field(default="tryton", description="none: postings gather in the books")
    url: str = Field(default="", description="empty starts the embedded Tryton")
    database: str = "erp"
    user: str = "admin"
    password_file: str = ""
    calls_per_minute: float = Field(default=600.0, gt=0)
    seal_age_s: float = Field(default=1.0, ge=0, description="how long summary postings gather before an entry is made")
    entities: tuple[Name, ...] = Field(default=(), description="empty: all entities")


class EntitySection(Section):
    """A legal entity: its currency, its facilities (empty: any), and the first day that its ERP still has open."""

    name: str
    currency: Currency = "USD"
    other_currencies: tuple[Currency, ...] = ()
    facilities: tuple[Name, ...] = ()
    opens_on: date = Field(description="older events post into the period of this day and keep their own date")


class MappingRow(Section):
    """One crosswalk row: a role of an entity is this account. An empty facility or department means any."""

    entity: str = Field(default="*", description="* means any")
    role: Annotated[str, Field(pattern=r"^[A-Z][A-Z_]*$")]
    account: Annotated[str, Field(min_length=1, max_length=64)]
    facility: str = ""
    department: str = ""
    valid_from: date = date(1900, 1, 1)


class Config(Section):
    """Everything that one Penstock is told."""

    runtime: RuntimeSection = RuntimeSection()
    log: LogSection = LogSection()
    books: BooksSection = BooksSection()
    archive: ArchiveSection = ArchiveSection()
    gateway: GatewaySection = GatewaySection()
    feeds: tuple[FeedSection, ...] = ()
    erp: ErpSection = ErpSection()
    entities: dict[Name, EntitySection] = Field(min_length=1)
    mapping: tuple[MappingRow, ...] = ()
    rulebook: str = Field(default="", description="a rule file; empty means the standard rulebook")
    limits: dict[str, float] = {}

    @field_validator("limits")
    @classmethod
    def _limits_known(cls, given: dict[str, float]) -> dict[str, float]:
        limits_of(given)
        return given

    @model_validator(mode="after")
    def _names_known(self) -> "Config":
        for i, row in enumerate(self.mapping):
            if row.entity != "*" and row.entity not in self.entities:
                raise ValueError(f"mapping.{i}.entity: {row.entity!r} is not under [entities]")
        for name in self.erp.entities:
            if name not in self.entities:
                raise ValueError(f"erp.entities: {name!r} is not under [entities]")
        if len({feed.name for feed in self.feeds}) < len(self.feeds):
            raise ValueError("feeds: two feeds have the same name")
        return self

    def bounds(self) -> Limits:
        """The limits in force."""
        return limits_of(self.limits)

    def entity_terms(self) -> dict[str, EntityTerms]:
        """What validation needs of each entity."""
        return {
            name: EntityTerms(
                currencies=frozenset([e.currency, *e.other_currencies]), facilities=frozenset(e.facilities)
            )
            for name, e in self.entities.items()
        }

    def erp_entities(self) -> tuple[str, ...]:
        """The entities whose journals go to the ERP."""
        return self.erp.entities or tuple(self.entities)


def limits_of(given: dict[str, float]) -> Limits:
    """Limits with these overrides; ValueError names a wrong one."""
    whole = {k: int(v) if float(v).is_integer() else v for k, v in given.items()}
    try:
        return msgspec.convert(whole, Limits)
    except msgspec.ValidationError as error:
        raise ValueError(f"limits: {error}") from None
    except AssertionError:
        raise ValueError("limits: these contradict each other; see the relations in runtime/limits.py") from None


def parse(given: dict) -> Config:
    """Check a mapping (from TOML and environment) and return the configuration, or raise ConfigError."""
    try:
        return Config.model_validate(given)
    except ValidationError as error:
        places = [f"{'.'.join(map(str, e['loc'])) or 'config'}: {e['msg']}" for e in error.errors(include_input=False)]
        raise ConfigError("; ".join(places)) from None
