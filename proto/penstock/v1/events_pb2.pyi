import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EventStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVENT_STATUS_UNSPECIFIED: _ClassVar[EventStatus]
    EVENT_STATUS_ACCEPTED: _ClassVar[EventStatus]
    EVENT_STATUS_DUPLICATE: _ClassVar[EventStatus]
    EVENT_STATUS_REJECTED: _ClassVar[EventStatus]

class DurabilityLevel(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DURABILITY_LEVEL_UNSPECIFIED: _ClassVar[DurabilityLevel]
    DURABILITY_LEVEL_MEMORY: _ClassVar[DurabilityLevel]
    DURABILITY_LEVEL_FSYNC_EVERYSEC: _ClassVar[DurabilityLevel]
    DURABILITY_LEVEL_FSYNC_ALWAYS: _ClassVar[DurabilityLevel]
EVENT_STATUS_UNSPECIFIED: EventStatus
EVENT_STATUS_ACCEPTED: EventStatus
EVENT_STATUS_DUPLICATE: EventStatus
EVENT_STATUS_REJECTED: EventStatus
DURABILITY_LEVEL_UNSPECIFIED: DurabilityLevel
DURABILITY_LEVEL_MEMORY: DurabilityLevel
DURABILITY_LEVEL_FSYNC_EVERYSEC: DurabilityLevel
DURABILITY_LEVEL_FSYNC_ALWAYS: DurabilityLevel

class FinancialEvent(_message.Message):
    __slots__ = ("event_id", "source", "kind", "entity", "facility", "account", "document", "reference", "counterparty", "department", "reason", "amount_minor", "currency", "quantity", "occurred_at_ms", "effective_on", "correlation_id", "schema_version", "attributes")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    FACILITY_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    COUNTERPARTY_FIELD_NUMBER: _ClassVar[int]
    DEPARTMENT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_MINOR_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_ON_FIELD_NUMBER: _ClassVar[int]
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    source: str
    kind: str
    entity: str
    facility: str
    account: str
    document: str
    reference: str
    counterparty: str
    department: str
    reason: str
    amount_minor: int
    currency: str
    quantity: int
    occurred_at_ms: int
    effective_on: str
    correlation_id: str
    schema_version: int
    attributes: str
    def __init__(self, event_id: _Optional[str] = ..., source: _Optional[str] = ..., kind: _Optional[str] = ..., entity: _Optional[str] = ..., facility: _Optional[str] = ..., account: _Optional[str] = ..., document: _Optional[str] = ..., reference: _Optional[str] = ..., counterparty: _Optional[str] = ..., department: _Optional[str] = ..., reason: _Optional[str] = ..., amount_minor: _Optional[int] = ..., currency: _Optional[str] = ..., quantity: _Optional[int] = ..., occurred_at_ms: _Optional[int] = ..., effective_on: _Optional[str] = ..., correlation_id: _Optional[str] = ..., schema_version: _Optional[int] = ..., attributes: _Optional[str] = ...) -> None: ...

class EventRows(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[FinancialEvent]
    def __init__(self, events: _Optional[_Iterable[_Union[FinancialEvent, _Mapping]]] = ...) -> None: ...

class SubmitRequest(_message.Message):
    __slots__ = ("request_id", "rows", "arrow_frame")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ARROW_FRAME_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    rows: EventRows
    arrow_frame: bytes
    def __init__(self, request_id: _Optional[str] = ..., rows: _Optional[_Union[EventRows, _Mapping]] = ..., arrow_frame: _Optional[bytes] = ...) -> None: ...

class EventResult(_message.Message):
    __slots__ = ("row", "event_id", "status", "code", "column", "message")
    ROW_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    row: int
    event_id: str
    status: EventStatus
    code: str
    column: str
    message: str
    def __init__(self, row: _Optional[int] = ..., event_id: _Optional[str] = ..., status: _Optional[_Union[EventStatus, str]] = ..., code: _Optional[str] = ..., column: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class ShardPosition(_message.Message):
    __slots__ = ("shard", "position", "rows")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    shard: int
    position: str
    rows: int
    def __init__(self, shard: _Optional[int] = ..., position: _Optional[str] = ..., rows: _Optional[int] = ...) -> None: ...

class DurabilityReceipt(_message.Message):
    __slots__ = ("level", "replicas", "positions")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    level: DurabilityLevel
    replicas: int
    positions: _containers.RepeatedCompositeFieldContainer[ShardPosition]
    def __init__(self, level: _Optional[_Union[DurabilityLevel, str]] = ..., replicas: _Optional[int] = ..., positions: _Optional[_Iterable[_Union[ShardPosition, _Mapping]]] = ...) -> None: ...

class SubmitResponse(_message.Message):
    __slots__ = ("request_id", "accepted", "duplicate", "rejected", "results", "results_truncated", "durability", "retry_after")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    RESULTS_TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    accepted: int
    duplicate: int
    rejected: int
    results: _containers.RepeatedCompositeFieldContainer[EventResult]
    results_truncated: bool
    durability: DurabilityReceipt
    retry_after: _duration_pb2.Duration
    def __init__(self, request_id: _Optional[str] = ..., accepted: _Optional[int] = ..., duplicate: _Optional[int] = ..., rejected: _Optional[int] = ..., results: _Optional[_Iterable[_Union[EventResult, _Mapping]]] = ..., results_truncated: _Optional[bool] = ..., durability: _Optional[_Union[DurabilityReceipt, _Mapping]] = ..., retry_after: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ShardStatus(_message.Message):
    __slots__ = ("shard", "appended", "committed", "waiting", "held", "paused")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    APPENDED_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    shard: int
    appended: int
    committed: int
    waiting: int
    held: int
    paused: bool
    def __init__(self, shard: _Optional[int] = ..., appended: _Optional[int] = ..., committed: _Optional[int] = ..., waiting: _Optional[int] = ..., held: _Optional[int] = ..., paused: _Optional[bool] = ...) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("shards", "inflight_bytes", "refusing", "reason", "version")
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    INFLIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    REFUSING_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    shards: _containers.RepeatedCompositeFieldContainer[ShardStatus]
    inflight_bytes: int
    refusing: bool
    reason: str
    version: str
    def __init__(self, shards: _Optional[_Iterable[_Union[ShardStatus, _Mapping]]] = ..., inflight_bytes: _Optional[int] = ..., refusing: _Optional[bool] = ..., reason: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...
