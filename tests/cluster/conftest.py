"""One real Ray for all cluster tests: four logical CPUs, no dashboard, a folder of its own, stopped at the end."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

NAMESPACE = "penstock-test"
# Ray puts socket files about 70 characters below its folder, and a socket's path may have 107.
FOLDER_CHARS_MAX = 36


@pytest.fixture(scope="session")
def ray_session() -> Iterator[ModuleType]:
    """The `ray` module, started. Its actors end with the session; nothing is left in the temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="pr"))
    assert len(str(folder)) <= FOLDER_CHARS_MAX, "set TMPDIR to a shorter path"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _environment(folder).items():
            patch.setenv(name, value)
        import ray

        try:
            ray.init(
                num_cpus=4,
                resources={"control": 1, "shard": 4, "ingress": 2},
                include_dashboard=False,
                log_to_driver=False,
                object_store_memory=100 * 2**20,
                namespace=NAMESPACE,
            )
            yield ray
        finally:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def _environment(folder: Path) -> dict[str, str]:
    """Short paths, no reports to anybody, and a token for this session alone, so that none is written to the home."""
    return {
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32),
        "RAY_BACKEND_LOG_LEVEL": "warning",
    }
