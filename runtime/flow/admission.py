"""Whether a door may take more: a decision from shards' lag and the bytes under way.

Owns the hysteresis between pausing and resuming a shard. Never reads a log or a clock: it is told, and it answers.
"""

from collections.abc import Iterable, Mapping

from runtime.errors import Pressure
from runtime.limits import Limits
from runtime.ports import ShardLag


class Admission:
    """The gate of one door. Until it has been told a lag, and whenever that can't be read, it admits nothing."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._paused: frozenset[int] = frozenset()
        self.lag: Mapping[int, ShardLag] | None = None

    @property
    def paused(self) -> frozenset[int]:
        """Shards that take nothing at present."""
        return self._paused

    def observe(self, lag: Mapping[int, ShardLag] | None) -> None:
        """Take note of every shard's lag; None when it can't be read."""
        self.lag = lag
        if lag is not None:
            self._paused = frozenset(shard for shard, given in lag.items() if self._pauses(shard, given))

    def _pauses(self, shard: int, lag: ShardLag) -> bool:
        # What is held falls by whole checkpoints, so it needs no second threshold to keep from flapping.
        if lag.held >= self._limits.log_rows_pause_at:
            return True
        pausing = shard in self._paused
        threshold = self._limits.shard_lag_resume_at_rows if pausing else self._limits.shard_lag_pause_at_rows
        return lag.waiting > threshold if pausing else lag.waiting >= threshold

    def refusal(self, inflight_bytes: int) -> Pressure | None:
        """Why a request can't be taken, wherever its events go, with `inflight_bytes` under way, its own included."""
        if self.lag is None:
            return self._pressure("the log does not say how far it is")
        if inflight_bytes > self._limits.gateway_inflight_bytes_max:
            return self._pressure("too many bytes are under way")
        if self.lag and self._paused.issuperset(self.lag):
            return self._pressure("every shard lags behind")
        return None

    def refusal_for(self, shards: Iterable[int]) -> Pressure | None:
        """Why events for these shards can't be taken."""
        if self.lag is None:
            return self._pressure("the log does not say how far it is")
        lagging = sorted(self._paused.intersection(shards))
        return self._pressure(f"shard {lagging[0]} lags behind") if lagging else None

    def hint_s(self, shards: Iterable[int]) -> float:
        """How long a caller had better wait, though it was not refused; 0 when there is no need."""
        lag = self.lag or {}
        near = any(lag[shard].waiting > self._limits.shard_lag_resume_at_rows for shard in shards if shard in lag)
        return self._limits.retry_after_s if near else 0.0

    def _pressure(self, reason: str) -> Pressure:
        return Pressure(reason, self._limits.retry_after_s)
