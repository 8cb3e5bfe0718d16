"""How golden journals are recorded anew: `pytest tests/golden --record`, then read the difference before committing."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Known only when this folder is named on the command line, so a whole run never records."""
    parser.addoption("--record", action="store_true", help="write the journals of the golden histories anew")


@pytest.fixture
def records(request: pytest.FixtureRequest) -> bool:
    """Whether to write what came out in place of comparing with it."""
    return request.config.getoption("--record", default=False)
