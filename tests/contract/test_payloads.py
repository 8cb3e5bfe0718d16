"""The payload store's contract, over the memory twin and over encrypted files; then what only files can show."""

import hashlib
import os
import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from adapters.payloads import cipher
from adapters.payloads.files import LEFTOVER_AGE_MS, FilePayloadStore
from adapters.payloads.memory import MemoryPayloadStore
from runtime.errors import PayloadDamaged, PayloadForgotten, PayloadKeyWrong, PayloadUnknown
from runtime.ports import PayloadAct, PayloadStore

KEY, OTHER_KEY = b"k" * cipher.KEY_BYTES, b"o" * cipher.KEY_BYTES
NOW_MS = 1_790_000_000_000
MARK = b"CANARY DOE JANE 123-45-6789 "
CHUNK = cipher.CHUNK_BYTES


@pytest.fixture(params=["memory", "files"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> PayloadStore:
    return MemoryPayloadStore() if request.param == "memory" else FilePayloadStore(tmp_path, lambda: KEY)


@pytest.fixture
def files(tmp_path: Path) -> FilePayloadStore:
    return FilePayloadStore(tmp_path, lambda: KEY)


def plain(store: PayloadStore, payload_id: str) -> bytes:
    """A payload as it came."""
    return b"".join(store.chunks(payload_id))


def marked(size: int) -> bytes:
    """So many bytes, no two chunks alike."""
    lines = (MARK + str(n).encode() for n in range(size // len(MARK) + 1))
    return b"\n".join(lines)[:size]


def in_pieces(payload: bytes, size: int) -> Iterator[bytes]:
    """The bytes as a reader gives them."""
    return (payload[at : at + size] for at in range(0, len(payload), size))


@pytest.mark.parametrize("size", [0, 1, 100, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 5])
def test_payload_comes_back_as_it_was(store, size: int) -> None:
    """Whatever its size and in whatever pieces it was read, a payload comes back byte for byte."""
    payload = marked(size)
    record = store.keep(in_pieces(payload, 70_001), NOW_MS, "anne")
    assert plain(store, record.payload_id) == payload
    assert (record.size, record.digest) == (size, hashlib.blake2b(payload, digest_size=32).hexdigest())
    assert record.payload_id == record.digest[:32] and record.acts == (PayloadAct("kept", NOW_MS, "anne"),)


def test_payload_kept_again_is_the_same_one(store) -> None:
    """The same file has the same id, whoever brings it, and its evidence stays that of the first keeping."""
    first = store.keep([marked(1000)], NOW_MS, "anne")
    second = store.keep(in_pieces(marked(1000), 7), NOW_MS + 1, "bill")
    assert first == second and store.records() == [first]


def test_payload_total_is_noted_beside_it(store) -> None:
    """The control total is added to the evidence, and may be replaced."""
    kept = store.keep([b"x"], NOW_MS, "anne")
    store.note_total(kept.payload_id, '{"rows":1}')
    assert store.note_total(kept.payload_id, '{"rows":2}').control_total == '{"rows":2}'
    assert store.records()[0].control_total == '{"rows":2}' and store.records()[0].digest == kept.digest


def test_payload_forgotten_leaves_its_evidence(store) -> None:
    """A forgotten payload is gone; id, digest, size, total and both acts stay. Forgetting it again changes nothing."""
    kept = store.keep([marked(1000)], NOW_MS, "anne")
    store.note_total(kept.payload_id, '{"rows":1}')
    gone = store.forget(kept.payload_id, NOW_MS + 5, "bill")
    assert store.forget(kept.payload_id, NOW_MS + 9, "carl") == gone
    with pytest.raises(PayloadForgotten):
        plain(store, kept.payload_id)
    assert gone.acts == (PayloadAct("kept", NOW_MS, "anne"), PayloadAct("forgotten", NOW_MS + 5, "bill"))
    assert (gone.digest, gone.size, gone.control_total) == (kept.digest, 1000, '{"rows":1}') and not gone.is_kept
    assert store.records() == [gone]


def test_payload_forgotten_and_kept_again_is_there_with_its_whole_history(store) -> None:
    """What somebody keeps again is there again, and nothing of what was done is forgotten."""
    kept = store.keep([b"x"], NOW_MS, "anne")
    store.forget(kept.payload_id, NOW_MS + 1, "bill")
    again = store.keep([b"x"], NOW_MS + 2, "carl")
    assert [act.what for act in again.acts] == ["kept", "forgotten", "kept"]
    assert plain(store, kept.payload_id) == b"x"


@pytest.mark.parametrize("payload_id", ["0" * 32, "", "../../etc/passwd", "A" * 32, "0" * 32 + "\n"])
def test_payload_that_was_never_kept_is_unknown(store, payload_id: str) -> None:
    """An id that nobody was given, or that is none, is named as unknown, whatever is asked for."""
    store.keep([b"x"], NOW_MS, "anne")
    for ask in (plain, lambda s, id: s.forget(id, NOW_MS, "anne"), lambda s, id: s.note_total(id, "{}")):
        with pytest.raises(PayloadUnknown):
            ask(store, payload_id)


def test_payload_records_come_in_the_order_of_their_keeping(store) -> None:
    """The evidence of all payloads is listed, oldest first."""
    kept = [store.keep([text], NOW_MS - n, "anne") for n, text in enumerate([b"a", b"b", b"c"])]
    assert store.records() == kept[::-1]


# ── files alone ────────────────────────────────────────────────────────────────────────────────────────────────────


def file_of(folder: Path) -> Path:
    """The one encrypted file."""
    (found,) = folder.glob("payloads/*.enc")
    return found


def test_payload_file_shows_nothing_of_its_content(files, tmp_path: Path) -> None:
    """Neither the encrypted file nor the evidence holds a marked text; both are readable by their owner alone."""
    files.keep([marked(3 * CHUNK)], NOW_MS, "anne")
    for path in tmp_path.rglob("*.*"):
        assert b"CANARY" not in path.read_bytes()
        assert path.stat().st_mode & 0o077 == 0


def test_payload_file_is_another_one_each_time(tmp_path: Path) -> None:
    """Equal payloads under one key are encrypted under different file keys, so nothing can be compared."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        FilePayloadStore(folder, lambda: KEY).keep([b"same"], NOW_MS, "anne")
    one, other = (file_of(folder).read_bytes() for folder in folders)
    assert one[-20:] != other[-20:]


def test_payload_under_another_key_says_so(files, tmp_path: Path) -> None:
    """A wrong key is named as such, before a byte is given."""
    kept = files.keep([marked(10)], NOW_MS, "anne")
    with pytest.raises(PayloadKeyWrong):
        plain(FilePayloadStore(tmp_path, lambda: OTHER_KEY), kept.payload_id)


def damages(whole: bytes) -> Iterable[tuple[str, bytes]]:
    """What can happen to a file of three chunks."""
    head, sealed = len(whole) - 3 * (CHUNK + cipher.TAG_BYTES), CHUNK + cipher.TAG_BYTES
    one, two, three = (whole[head + n * sealed : head + (n + 1) * sealed] for n in range(3))
    for at in (0, 20, 50, 55, 90, head - 1, head, head + sealed - 1, head + sealed + 7, len(whole) - 1):
        yield f"byte {at} changed", whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    yield "chunks exchanged", whole[:head] + two + one + three
    yield "chunk twice", whole[:head] + one + one + three
    yield "last chunk moved", whole[:head] + one + three + two
    yield "chunk left out", whole[:head] + one + three
    yield "last chunk cut off", whole[:head] + one + two
    yield "a byte cut off", whole[:-1]
    yield "a byte added", whole + b"\0"
    yield "only the head", whole[:head]
    yield "head cut", whole[: head - 1]
    yield "nothing", b""


def test_payload_damaged_anywhere_is_found(files, tmp_path: Path) -> None:
    """A changed, moved, repeated or missing part is found, and nothing that was changed is given before."""
    payload = marked(3 * CHUNK)
    kept = files.keep([payload], NOW_MS, "anne")
    path = file_of(tmp_path)
    whole = path.read_bytes()
    for what, damaged in damages(whole):
        path.write_bytes(damaged)
        given = b""
        with pytest.raises(PayloadDamaged) as refused:
            for chunk in files.chunks(kept.payload_id):
                given += chunk
        assert payload.startswith(given) and len(given) < len(payload), what
        assert "CANARY" not in str(refused.value), what
    path.write_bytes(whole)
    assert plain(files, kept.payload_id) == payload


def test_payload_under_the_name_of_another_is_found(files, tmp_path: Path) -> None:
    """Two payloads exchanged on disk, or their chunks, are found before or at the first wrong byte."""
    one, other = (files.keep([marked(CHUNK + 1)[::step]], NOW_MS, "anne") for step in (1, -1))
    paths = [tmp_path / "payloads" / f"{record.payload_id}.enc" for record in (one, other)]
    first, second = (path.read_bytes() for path in paths)
    paths[0].write_bytes(second)
    with pytest.raises(PayloadDamaged):
        next(iter(files.chunks(one.payload_id)))
    paths[0].write_bytes(first[: -CHUNK // 2] + second[-CHUNK // 2 :])
    with pytest.raises(PayloadDamaged):
        plain(files, one.payload_id)


def test_payload_kept_again_heals_what_can_not_be_read(files, tmp_path: Path) -> None:
    """A copy whose head is damaged, that is missing, or that lies under an old key is replaced by the next keeping."""
    kept = files.keep([marked(100)], NOW_MS, "anne")
    path = file_of(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    files.keep([marked(100)], NOW_MS, "anne")
    assert plain(files, kept.payload_id) == marked(100)
    path.unlink()
    with pytest.raises(PayloadDamaged):
        plain(files, kept.payload_id)
    renewed = FilePayloadStore(tmp_path, lambda: OTHER_KEY)
    renewed.keep([marked(100)], NOW_MS, "anne")
    assert plain(renewed, kept.payload_id) == marked(100)


class KilledError(Exception):
    """The process dies here."""


def test_payload_whose_keeping_was_cut_short_is_never_without_evidence(files, tmp_path: Path, monkeypatch) -> None:
    """Killed between any two durable steps of keeping or forgetting, no payload lies there that no evidence names."""
    for doing in ("keep", "forget"):
        for edge in range(1, 9):
            folder = tmp_path / f"{doing}{edge}"
            store = FilePayloadStore(folder, lambda: KEY)
            if doing == "forget":
                kept = store.keep([b"x"], NOW_MS, "anne")
            _die_at(monkeypatch, edge)
            with suppress(KilledError):
                store.keep([b"x"], NOW_MS, "anne") if doing == "keep" else store.forget(kept.payload_id, NOW_MS, "b")
            monkeypatch.undo()
            named = {record.payload_id for record in store.records()}
            assert {path.stem for path in folder.glob("payloads/*.enc")} <= named
            again = store.keep([b"x"], NOW_MS, "anne")
            assert plain(store, again.payload_id) == b"x" and len(store.records()) == 1
            store.forget(again.payload_id, NOW_MS, "bill")
            assert not list(folder.glob("payloads/*.enc"))


def _die_at(monkeypatch: pytest.MonkeyPatch, edge: int) -> None:
    """Let the process die before the n-th call that makes something durable or removes something."""
    passed = 0

    def before(real):
        def call(*given, **named):
            nonlocal passed
            passed += 1
            if passed == edge:
                raise KilledError
            return real(*given, **named)

        return call

    for owner, name in ((os, "fsync"), (Path, "replace")):
        monkeypatch.setattr(owner, name, before(getattr(owner, name)))


def test_payload_leftover_of_a_dead_writer_is_cleared_and_unreadable(files, tmp_path: Path) -> None:
    """What a writer that died has left can't be read by anybody, and goes after a day; a fresh one may be in use."""

    def dying() -> Iterator[bytes]:
        yield marked(2 * CHUNK)
        raise KilledError

    with pytest.raises(KilledError):
        files.keep(dying(), NOW_MS, "anne")
    left = [tmp_path / "payloads" / name for name in (".old.tmp", ".new.tmp")]
    for path, age_ms in zip(left, (LEFTOVER_AGE_MS + 1000, 1000), strict=True):
        path.write_bytes(b"")
        os.utime(path, ((NOW_MS - age_ms) / 1000,) * 2)
    files.keep([b"x"], NOW_MS, "anne")
    assert sorted(path.name for path in (tmp_path / "payloads").glob(".*")) == [".new.tmp"]


def test_payload_memory_stays_flat_whatever_the_size(files) -> None:
    """A large payload is kept and given with a few chunks in memory."""
    piece = os.urandom(CHUNK)
    tracemalloc.start()
    kept = files.keep((piece for _ in range(48)), NOW_MS, "anne")
    assert sum(len(chunk) for chunk in files.chunks(kept.payload_id)) == 48 * CHUNK
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * CHUNK
