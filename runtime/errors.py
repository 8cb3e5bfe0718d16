"""Every error that Penstock raises on purpose.

    PenstockError
    ├── ConfigError            a setting, rule file or mapping file is wrong; names the key
    │   └── RulebookError      a rule file is unbalanced, incomplete or contradicts itself
    ├── FrameError             bytes or rows that are no frame at all (code, column, message)
    ├── Pressure               ask again later; carries retry_after_s
    ├── LogError
    │   ├── LogUnavailable     the log did not answer: nothing is known of the append
    │   ├── LogRefused         the log answered that it can't store (disk or memory full): nothing was stored
    │   └── LogIncomplete      the log lacks what the books took from it, or what came next: it is not all of it
    ├── Fenced                 a newer epoch owns this; the holder must stop at once
    ├── BooksUnavailable       the books did not answer; the commit may be retried or re-read
    ├── GovernanceError        a change that the rules of approval or its own form do not allow
    │   └── SameSigner         who prepared a change can't approve it
    ├── NonDeterministic       a replay did not give what was committed: the shard must not go on
    ├── PayloadError           a raw payload can't be given
    │   ├── PayloadUnknown     no payload was ever kept under this id
    │   ├── PayloadForgotten   it was deleted on purpose; its evidence stays
    │   ├── PayloadKeyWrong    it was encrypted under another key
    │   └── PayloadDamaged     bytes of it were changed, moved or cut off
    └── ErpError               raised by adapters only while setting up or reading; posting answers with outcomes

No message holds a payload value: places (row, column, key) only.
"""


class PenstockError(Exception):
    """Root of all deliberate errors."""


class ConfigError(PenstockError):
    """A setting is wrong. The message names the key and the remedy."""


class RulebookError(ConfigError):
    """A rule file is wrong. The message names the kind and the line."""


class FrameError(PenstockError):
    """Input that can't be read as events at all."""

    def __init__(self, code: str, column: str, message: str) -> None:
        super().__init__(code, column, message)  # all of it, so that it comes whole out of another process
        self.code, self.column, self.message = code, column, message

    def __str__(self) -> str:
        return f"{self.code}: {self.column}: {self.message}" if self.column else f"{self.code}: {self.message}"


class Pressure(PenstockError):
    """The way ahead is full. Nothing was taken; ask again after retry_after_s."""

    def __init__(self, reason: str, retry_after_s: float) -> None:
        super().__init__(reason, retry_after_s)
        self.reason, self.retry_after_s = reason, retry_after_s

    def __str__(self) -> str:
        return f"{self.reason}; retry after {self.retry_after_s:g} s"


class LogError(PenstockError):
    """The event log failed."""


class LogUnavailable(LogError):
    """No answer from the log: the append may or may not have happened."""


class LogRefused(LogError):
    """The log can't store more: disk or memory is full. Nothing was stored."""


class LogIncomplete(LogError):
    """The log lacks entries: it was emptied, cut short, or is another one."""


class Fenced(PenstockError):
    """Somebody with a newer epoch owns what this caller tried to change."""


class BooksUnavailable(PenstockError):
    """The books did not answer."""


class GovernanceError(PenstockError):
    """A change that can't be made so. The message names the change, row or field, and the remedy."""


class SameSigner(GovernanceError):
    """Who prepared a change can't approve it: somebody else has to."""


class NonDeterministic(PenstockError):
    """A replayed step did not reproduce the committed effects."""


class ErpError(PenstockError):
    """The ERP could not be set up, logged in to or read."""


class PayloadError(PenstockError):
    """A raw payload can't be given."""


class PayloadUnknown(PayloadError):
    """No payload was ever kept under this id."""


class PayloadForgotten(PayloadError):
    """The payload was deleted on purpose. Its evidence stays."""


class PayloadKeyWrong(PayloadError):
    """The payload was encrypted under another key."""


class PayloadDamaged(PayloadError):
    """Bytes of the payload were changed, moved or cut off since it was kept."""
