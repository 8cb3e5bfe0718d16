"""The guide of how to write an adapter: what it shows is what the suites run, and short."""

import re

import pytest
from erp_vendors import EXAMPLE, GUIDE, VENDORS

from adapters.erp.doubles.trouble import FAULTS

LINES_MAX = 150


def test_guide_shows_the_adapter_that_the_suites_run() -> None:
    """The code in the guide is the file that the contract and the proof run, and is shorter than it promises."""
    [shown] = re.findall(r"```python\n(.*?)```\n", GUIDE.read_text(), re.DOTALL)
    assert shown == EXAMPLE.read_text()
    assert shown.count("\n") < LINES_MAX
    assert [vendor.proven for vendor in VENDORS if vendor.name == "guide"] == [True]


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`([a-z_/]+\.py)[:`]", GUIDE.read_text()))))
def test_guide_names_files_that_are_there(path: str) -> None:
    """Every file that the guide names is in the tree, under its whole path or beside the adapters or these suites."""
    root = GUIDE.parents[1]
    places = ("", "adapters/erp", "tests/contract")
    assert any((root / place / path).exists() for place in places)


def test_guide_tells_every_fault() -> None:
    """The table of what a double can be told to break is whole."""
    told = set(re.findall(r"`([a-z_]+)`", GUIDE.read_text()))
    assert set(FAULTS) - {"none"} <= told
