"""A Redis or Valkey stream as an outlet: each status under its number, `<status_no>-0`.

Owns the stream's form: one field, `status`, a JSON object. Ids are explicit and may only rise, so the server itself
refuses a number that it has seen, also when its entry was trimmed away long ago. Never numbers, and never decides what
a consumer is told.
"""

from collections.abc import Sequence

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from runtime.errors import LogRefused, LogUnavailable
from runtime.ports import Told

TIMEOUT_S = 5.0

# One script, so that a batch is there in whole or not at all, and nothing comes between question and answer. Without
# a flag it is refused before it begins when memory is full. KEYS: the stream. ARGV: the newest number as the caller
# knows it, the length to keep, then a number and a body for each status.
_PUBLISH = """#!lua
local function newest()
  if redis.call('EXISTS', KEYS[1]) == 0 then return '0-0' end
  local about = redis.call('XINFO', 'STREAM', KEYS[1])
  for i = 1, #about, 2 do
    if about[i] == 'last-generated-id' then return about[i + 1] end
  end
end
if newest() ~= ARGV[1] .. '-0' then return newest() end
for i = 3, #ARGV, 2 do
  redis.call('XADD', KEYS[1], ARGV[i] .. '-0', 'status', ARGV[i + 1])
end
redis.call('XTRIM', KEYS[1], 'MAXLEN', ARGV[2])
return newest()
"""


class RedisOutlet:
    """Outlet over one stream of any server. `length_max`: entries that the stream keeps."""

    def __init__(self, url: str, stream: str, length_max: int) -> None:
        self._stream, self._length_max = stream, length_max
        # Everything sent through it may be sent twice, so one stale connection is worth a second try.
        self._redis = redis.Redis.from_url(url, socket_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 1), protocol=2)

    def newest(self) -> int:
        """The highest number that the stream has ever held. See Outlet."""
        try:
            about = self._redis.xinfo_stream(self._stream) if self._redis.exists(self._stream) else None
        except (RedisError, OSError) as error:
            raise _failure(error) from None
        return _number_of(about["last-generated-id"]) if about else 0

    def publish(self, after: int, told: Sequence[Told]) -> int:
        """Append all of these if `after` is still the newest number. See Outlet."""
        if not told:
            return self.newest()
        given = [part for status in told for part in (status.status_no, status.body)]
        try:
            newest = self._redis.eval(_PUBLISH, 1, self._stream, after, self._length_max, *given)
        except (RedisError, OSError) as error:
            raise _failure(error) from None
        return _number_of(newest)

    def close(self) -> None:
        """Close the connection."""
        self._redis.close()


def told(url: str, stream: str) -> list[bytes]:
    """What a stream holds now, in the order of telling: each status as JSON. Raises LogUnavailable, LogRefused."""
    with redis.Redis.from_url(url, socket_timeout=TIMEOUT_S, protocol=2) as client:
        try:
            return [fields[b"status"] for _, fields in client.xrange(stream)]
        except (RedisError, OSError) as error:
            raise _failure(error) from None


def _number_of(id: bytes) -> int:
    number, _, sequence = id.decode().partition("-")
    if sequence != "0":
        raise LogRefused("the consumer's stream holds entries of somebody else; name another stream")
    return int(number)


def _failure(error: Exception) -> LogRefused | LogUnavailable:
    """A server's answer may quote field values, so only its kind is kept."""
    if isinstance(error, ResponseError):
        return LogRefused(f"the consumer's server refused ({type(error).__name__})")
    return LogUnavailable(f"the consumer's server did not answer ({type(error).__name__})")
