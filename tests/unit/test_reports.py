"""What the reports conclude from what parts say of themselves."""

import pytest

from actors.cli.reports import healthy


def part(state: str = "running", *shards: tuple[int, str]) -> dict:
    """A part's health as plain data; one with shards is a worker."""
    detail = [{"shard": shard, "state": its} for shard, its in shards] if shards else None
    return {"name": "part", "state": state, "detail": detail}


WORKER = part("running", (0, "running"), (1, "running"))
CASES = {
    "all run": ([WORKER, part()], True),
    "a part fails": ([WORKER, part("failed")], False),
    "a part is silent": ([WORKER, part("silent")], False),
    "a shard recovers": ([part("running", (0, "running"), (1, "recovering")), part()], False),
    "a shard is nowhere": ([part("running", (0, "running")), part()], False),
    "a worker is silent": ([part("silent"), part()], False),
}


@pytest.mark.parametrize(("parts", "expected"), CASES.values(), ids=CASES)
def test_status_of_parts_and_shards_is_healthy_only_when_all_run(parts, expected):
    """A shard that no worker runs makes Penstock unhealthy, though every part answers."""
    assert healthy(parts, shards=2) is expected
