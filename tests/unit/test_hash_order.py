"""The order of hashes, which dedupe and balances sort by."""

import numpy as np
import pytest

from runtime.runs import order_of

LARGEST = 2**64 - 1
CASES = {
    "none": [],
    "one": [7],
    "alike in their first bits": [5, 3, 4, 3, 0],
    "alike in their last bits": [(first << 48) | 1 for first in (65_535, 0, 32_768, 32_767, 65_535)],
    "both ends": [LARGEST, 0, LARGEST, 1 << 63, 0],
    "many, some of them twice": [hash * 0x9E3779B97F4A7C15 & LARGEST for hash in [*range(3_000), *range(500)]],
}


@pytest.mark.parametrize("hashes", CASES.values(), ids=CASES)
def test_order_of_hashes_is_that_of_a_stable_argsort(hashes: list[int]) -> None:
    """Hashes come in their order as unsigned numbers, and equal ones in the order in which they stood."""
    column = np.array(hashes, np.uint64)
    assert order_of(column).tolist() == np.argsort(column, kind="stable").tolist()
