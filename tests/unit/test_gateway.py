"""The gateway over a log in memory: what becomes of requests of every size, alone and together."""

import asyncio

import polars as pl
import pytest

from actors.answers import Receipt
from actors.gateway import Gateway
from adapters.log.memory import MemoryLog
from runtime.errors import FrameError, LogUnavailable
from runtime.flow import frames
from runtime.limits import Limits
from runtime.ports import START, ShardLag
from runtime.routing import shard_of, splitter
from runtime.schema import EntityTerms, Few, KindTerms, Vocabulary, conform, to_arrow
from runtime.validation import validate
from runtime.validation_singly import events_of

NOW_MS = 1_790_000_000_000
SHARDS = 3
VOCABULARY = Vocabulary(
    kinds={"charged": KindTerms(requires=("facility",), sign="any"), "paid": KindTerms(requires=(), sign="any")},
    entities={"H1": EntityTerms(currencies=frozenset({"USD"}))},
)
SCOPES = {"charged": "facility", "paid": "entity"}


class StoppedClock:
    """Always the same moment."""

    def now_ms(self) -> int:
        return NOW_MS

    def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody sleeps here")


class WatchedLog(MemoryLog):
    """A log that tells when its lag is looked at."""

    looked = asyncio.Event()

    async def lag(self) -> dict[int, ShardLag]:
        self.looked.set()
        return await super().lag()

    async def next_look(self) -> None:
        """Return once somebody has looked again."""
        self.looked = asyncio.Event()
        await self.looked.wait()


def events(name: str, count: int, **changes: object) -> pl.DataFrame:
    """So many events over several facilities, with some texts left out."""
    rows = [
        {
            "event_id": f"{name}-{i}",
            "source": "ehr",
            "kind": "paid" if i % 5 == 0 else "charged",
            "entity": "H1",
            "facility": f"F{i % 7}",
            "reason": ("late", None, "é")[i % 3],
            "amount_minor": i,
            "currency": "USD",
            "occurred_at": NOW_MS,
        }
        | changes
        for i in range(count)
    ]
    return conform(pl.DataFrame(rows))


def few(frame: pl.DataFrame) -> Few:
    """The same events without columns."""
    return Few(events_of(to_arrow(frame)), list(range(frame.height)), [])


def taken(*requests: pl.DataFrame) -> tuple[list[Receipt], pl.DataFrame, MemoryLog]:
    """The receipts of requests that come at once, and what the log then holds."""
    log = MemoryLog(SHARDS)

    async def submit() -> list[Receipt]:
        split = splitter(SCOPES, SHARDS)
        gateway = Gateway(log, vocabulary=VOCABULARY, split=split, limits=Limits(), clock=StoppedClock())
        receipts = await asyncio.gather(*(gateway.submit(request) for request in requests))
        await gateway.close()
        return receipts

    receipts = asyncio.run(submit())
    records = log.read(dict.fromkeys(range(SHARDS), START), 10**9, 0)
    return receipts, pl.concat(frames.decode_sealed(r.body) for some in records.values() for r in some), log


@pytest.mark.parametrize("counts", [(1,), (100,), (3_000,), (1, 100), (100, 1), (2, 3, 100, 200), (200, 3_000, 33_000)])
def test_gateway_stores_every_event_as_validated_whatever_came_with_it(counts: tuple[int, ...]):
    """Requests of all sizes, checked in the loop or in threads, share entries, and each event is stored as if alone."""
    requests = [events(f"r{n}", count) for n, count in enumerate(counts)]
    receipts, stored, _ = taken(*requests)
    assert [len(receipt.accepted) for receipt in receipts] == list(counts)
    expected = pl.concat(validate(request, VOCABULARY, NOW_MS).accepted.drop("row") for request in requests)
    assert stored.sort("event_id").equals(expected.sort("event_id"))


def test_gateway_gives_every_shard_its_own_events_in_their_order():
    """Entity-scoped kinds go to the entity's shard, others to their facility's; the order of arrival stays."""
    _, _, log = taken(events("a", 1_000))
    for shard, records in log.read(dict.fromkeys(range(SHARDS), START), 10**9, 0).items():
        rows = pl.concat(frames.decode_sealed(record.body) for record in records)
        scopes = [facility if kind == "charged" else "*" for kind, facility in rows.select("kind", "facility").rows()]
        assert {shard_of("H1", scope, SHARDS) for scope in scopes} == {shard}
        assert rows["amount_minor"].is_sorted()


def test_gateway_counts_and_leaves_out_what_is_bad_or_known():
    """Bad events are rejected and repeats of stored ones are duplicates; both by their rows, and neither is stored."""
    log, split = MemoryLog(SHARDS), splitter(SCOPES, SHARDS)
    first, second = events("a", 100), events("a", 103)
    second = second.with_columns(
        pl.when(pl.col("event_id") == "a-101").then(pl.lit("EUR")).otherwise("currency").alias("currency")
    )

    async def submit() -> Receipt:
        gateway = Gateway(log, vocabulary=VOCABULARY, split=split, limits=Limits(), clock=StoppedClock())
        await gateway.submit(first)
        receipt = await gateway.submit(second)
        await gateway.close()
        return receipt

    receipt = asyncio.run(submit())
    assert receipt.duplicates.tolist() == list(range(100))
    assert receipt.accepted.tolist() == [100, 102]
    assert receipt.rejected["row"].to_list() == [101]
    assert sum(rows for _, _, rows in receipt.stored.positions()) == 2


@pytest.mark.parametrize("away", [False, True])
def test_gateway_forgets_what_its_log_has_lost(away: bool):
    """A log that comes back without its newest entries is sent them again: nobody answers that they are known. Where it
    was away and has as many rows again by others, whatever was known before is asked anew, too."""
    log, split = WatchedLog(SHARDS), splitter(SCOPES, SHARDS)
    first = events("a", 30)

    def lose_all() -> None:
        for shard, records in log.read(dict.fromkeys(range(SHARDS), START), 10**9, 0).items():
            log.lose(shard, len(records))

    async def submit() -> list[Receipt]:
        gateway = Gateway(log, vocabulary=VOCABULARY, split=split, limits=Limits(), clock=StoppedClock())
        receipts = [await gateway.submit(first), await gateway.submit(first)]
        await log.next_look()
        if away:
            log.plan("lose_call")
            with pytest.raises(LogUnavailable):
                await gateway.submit(events("b", 1))
        else:
            lose_all()
        await log.next_look()
        receipts += [await gateway.submit(first), await gateway.submit(first)]
        await gateway.close()
        return receipts

    receipts = asyncio.run(submit())
    assert [len(receipt.accepted) for receipt in receipts] == [30, 0, 30, 0]
    assert [len(receipt.duplicates) for receipt in receipts] == [0, 30, 0, 30]


def test_gateway_frame_too_large_for_any_room_is_refused_and_not_told_to_wait():
    """A frame of more bytes than may ever be under way is an error of its sender: pressure would last for ever."""
    limits = Limits(frame_bytes_max=10_000, gateway_inflight_bytes_max=20_000)

    async def submit() -> None:
        gateway = Gateway(
            MemoryLog(SHARDS),
            vocabulary=VOCABULARY,
            split=splitter(SCOPES, SHARDS),
            limits=limits,
            clock=StoppedClock(),
        )
        try:
            await gateway.submit(events("a", 100, attributes="x" * 4_000))
        finally:
            await gateway.close()

    with pytest.raises(FrameError) as caught:
        asyncio.run(submit())
    assert caught.value.code == "too_large"


def test_gateway_few_events_are_stored_and_answered_as_those_of_frames():
    """Events that come singly, among them bad and known ones, end as in frames, beside callers that send frames."""
    singly, framed = MemoryLog(SHARDS), MemoryLog(SHARDS)
    bad = events("bad", 3, currency="EUR")
    requests = [events(f"r{n}", n) for n in (1, 2, 9)] + [pl.concat([events("r2", 2), bad, events("x", 4)])]

    async def submit(log: MemoryLog, in_frames: bool) -> list[Receipt]:
        gateway = Gateway(
            log, vocabulary=VOCABULARY, split=splitter(SCOPES, SHARDS), limits=Limits(), clock=StoppedClock()
        )
        await gateway.start()

        async def send(request: pl.DataFrame) -> Receipt:
            return await (gateway.submit(request) if in_frames else gateway.store_few(few(request)))

        first = await asyncio.gather(*map(send, requests[:3]), gateway.submit(events("large", 500)))
        receipts = [*first, await send(requests[3])]
        await gateway.close()
        return receipts

    stored = []
    for log, in_frames in ((singly, False), (framed, True)):
        receipts = asyncio.run(submit(log, in_frames))
        assert [(r.accepted.tolist(), r.duplicates.tolist()) for r in receipts[:3]] == [
            (list(range(n)), []) for n in (1, 2, 9)
        ]
        assert (receipts[-1].accepted.tolist(), receipts[-1].duplicates.tolist()) == ([5, 6, 7, 8], [0, 1])
        assert receipts[-1].rejected["row"].to_list() == [2, 3, 4]
        assert [sum(rows for _, _, rows in r.stored.positions()) for r in receipts] == [1, 2, 9, 500, 4]
        records = log.read(dict.fromkeys(range(SHARDS), START), 10**9, 0)
        shards = {shard: pl.concat(frames.decode_sealed(r.body) for r in some) for shard, some in records.items()}
        stored.append({shard: rows.sort("event_id") for shard, rows in shards.items()})
    assert stored[0].keys() == stored[1].keys()
    assert all(rows.equals(stored[1][shard]) for shard, rows in stored[0].items())
