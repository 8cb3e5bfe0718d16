"""What all tests share: where the sample data lies that the repository itself does not hold."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Find a file of the shared samples by its path under them, or skip the test that asks."""
    root = Path(os.environ.get("PENSTOCK_SHARED_DATA") or REPOSITORY.parent / "shared" / "data")

    def find(name: str) -> Path:
        path = root / name
        if not path.exists():
            pytest.skip(f"sample {name} is not there; set PENSTOCK_SHARED_DATA to the folder that holds it")
        return path

    return find
