"""The machine's clock for the books: when something was committed, sealed or ended, for people to read."""

import time


def utc_now_ms() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000
