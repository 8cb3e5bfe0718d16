"""Every bound in Penstock, in one place. Units are in the names; the relations are asserted below.

Configuration may lower or raise those in `Limits`; the module constants are part of the contract.
"""

import msgspec

EVENT_ID_CHARS_MAX = 128
TEXT_CHARS_MAX = 256
ATTRIBUTES_CHARS_MAX = 4096
ATTRIBUTES_DEPTH_MAX = 100  # values within each other; deeper ones are read by nobody
AMOUNT_MINOR_MAX = 10**12  # ten billion in cents: a larger amount is an error of scale
QUANTITY_MAX = 10**12  # thousandths: a billion pieces, which are summed like amounts
SUM_MINOR_MAX = 2**63 - 1  # amounts are summed as 64-bit integers
OCCURRED_YEAR_MIN = 1900
FUTURE_DAYS_MAX = 366  # prepaid and scheduled items may lie ahead, not further than a year
ROUND_S_MAX = 2.0  # of the supervisor, who hears of each part once a round: a shorter patience would end sound ones
REJECTS_REPORTED_MAX = 10_000  # details in one answer; the counts are always complete


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of one running Penstock."""

    frame_rows_max: int = 65_536  # rows of one submitted frame
    step_rows_max: int = 262_144  # rows of one engine step, but for its last frame: large steps cost less a row
    frame_bytes_max: int = 32 * 2**20  # bytes of one submitted frame or row message
    gateway_inflight_bytes_max: int = 256 * 2**20  # accepted for appending, not yet acknowledged
    gateway_recent_ids_max: int = 1_000_000  # ids a gateway remembers to answer repeats itself
    shard_lag_pause_at_rows: int = 2_000_000  # appended but uncommitted rows at which producers wait
    shard_lag_resume_at_rows: int = 1_000_000
    log_rows_pause_at: int = 8_000_000  # rows a shard's log holds, committed or not
    log_read_wait_ms: int = 200
    retry_after_s: float = 0.5
    feed_batch_rows_max: int = 2_000
    feed_block_ms: int = 200
    checkpoint_commits_max: int = 200
    checkpoint_age_s_max: float = 10.0
    checkpoint_replay_s_max: float = 1.5  # of engine time that recovery would take again
    entry_lines_max: int = 200  # lines of one journal entry
    call_lines_max: int = 400  # lines of one ERP call
    call_entries_max: int = 50
    seal_sets_max: int = 5_000  # posting sets looked at in one sealing round
    seal_backlog_sets_max: int = 100_000  # the same where far more of them wait
    open_items_max: int = 5_000_000  # a shard's open items; at the limit, rows that would open one become exceptions
    ping_timeout_s: float = 10.0
    restart_backoff_s_max: float = 30.0

    def __post_init__(self) -> None:
        assert 0 < self.shard_lag_resume_at_rows < self.shard_lag_pause_at_rows <= self.log_rows_pause_at
        assert 0 < self.frame_rows_max <= self.shard_lag_resume_at_rows
        assert (self.step_rows_max + self.frame_rows_max) * AMOUNT_MINOR_MAX < SUM_MINOR_MAX
        assert 0 < self.frame_bytes_max <= self.gateway_inflight_bytes_max
        assert 1 < self.entry_lines_max <= self.call_lines_max
        assert self.ping_timeout_s > ROUND_S_MAX
        assert (
            self.call_entries_max > 0
            and 0 < self.seal_sets_max <= self.seal_backlog_sets_max
            and self.retry_after_s > 0
        )
