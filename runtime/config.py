"""The one typed configuration: entities, mappings, connections, limits.

Owns shapes and checks. Never reads a file or the environment: `adapters.settings` does, and hands the mapping in.
Errors name the key by its path in the file and what it should be.
"""

from datetime import date
from typing import Annotated, Any, Literal

import msgspec
from pydantic import Field, ValidationError, field_validator, model_validator

from runtime.errors import ConfigError
from runtime.limits import Limits
from runtime.schema import EntityTerms
from runtime.sections import Currency, Name, Port, RedisUrl, Section

_VALUE_ERROR = "Value error, "  # what pydantic says before a validator's own words


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

    url: RedisUrl = ""
    fsync: Literal["always", "everysec"] = "always"
    replicas_min: int = Field(default=0, ge=0, le=9, description="replicas that must hold an event on disk first")

    @model_validator(mode="after")
    def _has_replicas(self) -> "LogSection":
        if self.replicas_min and not self.url:
            raise ValueError("replicas_min: the embedded Valkey has no replicas; name the url of yours")
        return self


class BooksSection(Section):
    """The books: an SQLAlchemy URL; empty means SQLite under data_dir."""

    url: str = ""


class ArchiveSection(Section):
    """Archive and snapshots: a folder; empty means data_dir/archive."""

    root: str = ""

    @field_validator("root")
    @classmethod
    def _is_folder(cls, root: str) -> str:
        if "://" in root:
            raise ValueError("name a folder; an object store has to be mounted as one")
        return root


class TlsSection(Section):
    """Certificates of the gRPC door, as PEM files; without `cert_file` nothing is encrypted. The last three are for
    Penstock's own commands, which call it, too."""

    cert_file: str = Field(default="", description="the gateways' certificate, and those between it and its CA")
    key_file: str = ""
    client_ca_file: str = Field(default="", description="who signs producers' certificates; empty: they need none")
    ca_file: str = Field(default="", description="who signed cert_file; empty: it is trusted itself")
    client_cert_file: str = ""
    client_key_file: str = ""

    @model_validator(mode="after")
    def _belongs_together(self) -> "TlsSection":
        for cert, key in (("cert_file", "key_file"), ("client_cert_file", "client_key_file")):
            if bool(getattr(self, cert)) != bool(getattr(self, key)):
                raise ValueError(f"{key}: {cert} and {key} go together; name both or neither")
        if self.client_ca_file and not self.cert_file:
            raise ValueError("client_ca_file: without a cert_file nobody is asked for a certificate; name one")
        if self.client_ca_file and not self.client_cert_file:
            raise ValueError("client_cert_file: Penstock's own commands need one, too, where client_ca_file is set")
        return self


class GatewaySection(Section):
    """The gRPC door."""

    host: str = Field(default="127.0.0.1", description="the interface to serve on")
    advertise: str = Field(default="", description="the host that clients are told; empty means host")
    port: Port = 7717
    count: int = Field(default=1, ge=1, le=64, description="gateway actors that share the port")
    tls: TlsSection = TlsSection()

    def called(self) -> str:
        """The host that clients call."""
        return self.advertise or self.host


class FeedSection(Section):
    """One Redis stream to read events from."""

    name: Name
    stream: str = Field(min_length=1)
    group: Name = "penstock"
    url: RedisUrl = Field(default="", description="another Redis than the log's")


class ConsumerSection(Section):
    """One consumer outside that is told what becomes of documents: a Redis stream of statuses."""

    name: Name
    flows: tuple[Name, ...] = Field(default=(), description="which flows' statuses; empty: every one")
    stream: str = Field(default="", description="empty: penstock:status:NAME")
    url: RedisUrl = Field(default="", description="another Redis than the log's")
    length_max: int = Field(default=1_000_000, ge=1, description="entries that the stream keeps, the newest")

    def stream_name(self) -> str:
        """The stream's key."""
        return self.stream or f"penstock:status:{self.name}"


class PayloadsSection(Section):
    """Raw files: whether they are kept, and where the key is that encrypts them. The key itself is never here."""

    keep: bool = Field(default=False, description="what `penstock submit` does when it is not told")
    key_file: str = Field(default="", description="64 hex digits; empty: data_dir/payload.key, made when missing")
    key_env: str = Field(default="", description="the variable of the environment that holds the key instead")

    @model_validator(mode="after")
    def _one_place(self) -> "PayloadsSection":
        if self.key_file and self.key_env:
            raise ValueError("name a key_file or a key_env, not both")
        return self


class SecretSection(Section):
    """Where one secret lies: in a file, or in a variable of the environment. Never here."""

    file: str = ""
    env: str = ""

    @model_validator(mode="after")
    def _one_place(self) -> "SecretSection":
        if bool(self.file) == bool(self.env):
            raise ValueError("name a file or an environment variable that holds it, one of the two")
        return self


# What each way of authentication needs; the rest is optional.
_AUTH_NEEDS = {
    "none": (),
    "basic": ("user", "secret"),
    "header": ("secret",),
    "oauth2_client": ("token_url", "client_id", "secret"),
    "oauth2_refresh": ("token_url", "client_id", "secret", "refresh_token_file"),
    "oauth1": ("client_id", "secret", "token_id", "token_secret"),
}


class ErpAuthSection(Section):
    """How an ERP knows us.

    basic: user and password. header: a fixed key in `header`, after `prefix`. oauth2_client: client credentials.
    oauth2_refresh: a refresh token that the server replaces as it likes. oauth1: signed requests (token-based access).
    """

    kind: Literal["none", "basic", "header", "oauth2_client", "oauth2_refresh", "oauth1"] = "none"
    user: str = ""
    secret: SecretSection | None = Field(default=None, description="password, key, client or consumer secret")
    header: str = "Authorization"
    prefix: str = Field(default="", description='what stands before the key, for instance "Bearer"')
    token_url: str = ""
    client_id: str = Field(default="", description="the client's id, or the consumer key of oauth1")
    scope: str = ""
    refresh_token_file: str = Field(default="", description="holds the refresh token; each new one is written there")
    token_id: str = ""
    token_secret: SecretSection | None = None
    realm: str = Field(default="", description="of oauth1: the account")

    @model_validator(mode="after")
    def _complete(self) -> "ErpAuthSection":
        missing = [name for name in _AUTH_NEEDS[self.kind] if not getattr(self, name)]
        if missing:
            raise ValueError(f"{self.kind} also needs {', '.join(missing)}")
        return self


class ErpHttpSection(Section):
    """How an ERP is reached over HTTP."""

    connect_timeout_s: float = Field(default=5.0, gt=0)
    answer_timeout_s: float = Field(default=120.0, gt=0, description="then the outcome of a call is unknown")
    proxy: str = Field(default="", description="http://host:port; empty: none, whatever the environment names")
    ca_file: str = Field(default="", description="certificates to trust, in PEM; empty: the usual ones")
    http2: bool = Field(default=False, description="needs the extra: pip install penstock[http2]")
    connections_max: int = Field(default=10, ge=1, le=100)


class ErpLimitsSection(Section):
    """What this account may do, where it differs from what the adapter declares. 0 states no limit."""

    lines_max: int | None = Field(default=None, ge=1)
    entries_max: int | None = Field(default=None, ge=1)
    bytes_max: int | None = Field(default=None, ge=0)
    concurrency: int | None = Field(default=None, ge=1)
    per_second: int | None = Field(default=None, ge=0)
    per_minute: int | None = Field(default=None, ge=0)
    per_day: int | None = Field(default=None, ge=0)
    settle_s: float | None = Field(default=None, ge=0)
    key_life_s: float | None = Field(default=None, ge=0)
    lookup_keys_max: int | None = Field(default=None, ge=1)


class GatheringSection(Section):
    """How long a kind's summary postings gather: for a while, or until the next whole interval."""

    age_s: float = Field(default=0.0, ge=0)
    every_s: float = Field(default=0.0, ge=0, description="3600: entries at each full hour; 0: age_s instead")


class ErpSection(Section):
    """One ERP connection. Secrets come from a file or the environment, never from the configuration itself."""

    kind: Name = Field(default="tryton", description="an adapter's name, or none: postings gather in the books")
    url: str = Field(default="", description="empty starts the embedded Tryton")
    database: str = "erp"
    user: str = "admin"
    password_file: str = ""
    auth: ErpAuthSection = ErpAuthSection()
    http: ErpHttpSection = ErpHttpSection()
    limits: ErpLimitsSection = ErpLimitsSection()
    companies: dict[Name, str] = Field(default={}, description="what the ERP calls each entity's company")
    settings: dict[str, Any] = Field(default={}, description="the adapter's own; it checks them")
    calls_per_minute: float = Field(default=600.0, gt=0)
    seal_age_s: float = Field(default=1.0, ge=0, description="how long summary postings gather before an entry is made")
    gathering: dict[Name, GatheringSection] = Field(default={}, description="kinds that gather otherwise")
    entities: tuple[Name, ...] = Field(default=(), description="empty: all entities")

    @model_validator(mode="after")
    def _reachable(self) -> "ErpSection":
        if self.kind not in ("tryton", "none") and not self.url:
            raise ValueError(f"url: {self.kind} is not embedded; name the address of yours")
        return self


class EntitySection(Section):
    """A legal entity: its currency, its facilities (empty: any), and the first day that its ERP still has open."""

    name: str
    currency: Currency = "USD"
    other_currencies: tuple[Currency, ...] = ()
    facilities: tuple[Name, ...] = ()
    opens_on: date = Field(description="older events post into the period of this day and keep their own date")


class PayeeSection(Section):
    """Whose a payee's number is: what payers pay to it belongs to this entity, and to this facility if one is named."""

    number: Annotated[str, Field(pattern=r"^[0-9][0-9-]{5,14}$")]
    entity: Name
    facility: str = ""


class MappingRow(Section):
    """One crosswalk row: a role (or ROLE/code) of an entity is this account, a policy this answer, a CLASS_table/code
    this class.

    An empty facility, department or counterparty (a payer or supplier) means any.
    """

    entity: str = Field(default="*", description="* means any")
    role: Annotated[str, Field(pattern=r"^([A-Z][A-Z_]*(/\S+)?|CLASS_[a-z_]+/\S+)$")]
    account: Annotated[str, Field(min_length=1, max_length=64)]
    facility: str = ""
    department: str = ""
    counterparty: str = ""
    valid_from: date = date(1900, 1, 1)


class Config(Section):
    """Everything that one Penstock is told."""

    runtime: RuntimeSection = RuntimeSection()
    log: LogSection = LogSection()
    books: BooksSection = BooksSection()
    archive: ArchiveSection = ArchiveSection()
    gateway: GatewaySection = GatewaySection()
    feeds: tuple[FeedSection, ...] = ()
    consumer: tuple[ConsumerSection, ...] = ()
    payloads: PayloadsSection = PayloadsSection()
    erp: ErpSection = ErpSection()
    entities: dict[Name, EntitySection] = Field(min_length=1)
    payee: tuple[PayeeSection, ...] = ()
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
        for i, one in enumerate(self.payee):
            if one.entity not in self.entities:
                raise ValueError(f"payee.{i}.entity: {one.entity!r} is not under [entities]")
            if one.facility and one.facility not in (known := self.entities[one.entity].facilities) and known:
                raise ValueError(f"payee.{i}.facility: {one.facility!r} is none of {one.entity}'s")
        if len({one.number for one in self.payee}) < len(self.payee):
            raise ValueError("payee: two payees have the same number")
        for name in self.erp.entities:
            if name not in self.entities:
                raise ValueError(f"erp.entities: {name!r} is not under [entities]")
        for name in self.erp.companies:
            if name not in self.entities:
                raise ValueError(f"erp.companies: {name!r} is not under [entities]")
        if len({feed.name for feed in self.feeds}) < len(self.feeds):
            raise ValueError("feeds: two feeds have the same name")
        if len({one.name for one in self.consumer}) < len(self.consumer):
            raise ValueError("consumer: two consumers have the same name")
        if len({(one.url, one.stream_name()) for one in self.consumer}) < len(self.consumer):
            raise ValueError("consumer: two consumers have the same stream")
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

    def payees(self) -> dict[str, tuple[str, str]]:
        """Whose each payee's number is: entity and facility, "" for none."""
        return {one.number: (one.entity, one.facility) for one in self.payee}

    def opens_on(self) -> dict[str, date]:
        """The first day on which each entity is posted to, by the configuration alone."""
        return {name: entity.opens_on for name, entity in self.entities.items()}

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
        raise ConfigError(wrong_of(error)) from None


def wrong_of(error: ValidationError, *under: str) -> str:
    """What is wrong, each with its key, which lies under these; never a value, as it may be a secret."""
    wrong = [((*under, *e["loc"]), e["msg"].removeprefix(_VALUE_ERROR)) for e in error.errors(include_input=False)]
    return "; ".join(": ".join(filter(None, (".".join(map(str, at)), said))) for at, said in wrong)
