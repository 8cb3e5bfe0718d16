"""A Penstock of a test's own: a folder, free ports, the commands that a person would give, and the certainty that it
ends.

Owns no knowledge of what the commands do. Whatever a command starts, however deep, inherits a mark in its environment;
what is still running is found by the mark (or by its data folder, as Valkey writes over its environment), and ended by
its process id.
"""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil

from actors.cli.run_record import RunRecord
from actors.wiring import Wiring, wiring_from
from adapters.books.sql import SqlBooks

PENSTOCK = str(Path(sys.executable).with_name("penstock"))
COMMAND_TIMEOUT_S = 300.0
POLL_S = 0.05
MARK = "PENSTOCK_TEST_MARK"


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A temporary folder with a short path, as sockets lie below it; removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="pe"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def until(is_so: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """What `is_so` answers, once that is true."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if answer := is_so():
            return answer
        time.sleep(POLL_S)
    raise AssertionError(f"not within {timeout_s:g} s: {what}")


class Marked:
    """Processes that this test started, and all that they started. `home` is their data folder."""

    def __init__(self, folder: Path, home: Path) -> None:
        self._mark, self._home = secrets.token_hex(8), home
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PENSTOCK_"))}
        self.environment = ours | {MARK: self._mark, "TMPDIR": str(folder), "COLUMNS": "200"}

    def running(self) -> list[psutil.Process]:
        """Those that run now."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def names(self) -> list[str]:
        """Their command lines, for a failed assertion."""
        found = []
        for process in self.running():
            with contextlib.suppress(psutil.Error):
                found.append(" ".join(process.cmdline())[:100])
        return found

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            at_home = Path(process.cwd()).is_relative_to(self._home)
            ours = at_home or process.environ().get(MARK) == self._mark
            return ours and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def end(self) -> None:
        """End them all; nothing remains to be done when they ended in good order."""
        left = self.running()
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=10)


class Installed:
    """One configuration in a folder, and the commands that run on it."""

    def __init__(self, folder: Path, name: str, config: str) -> None:
        """`config` has {data_dir} where its data folder's path goes."""
        self.data = folder / name
        self.marked = Marked(folder, self.data)
        self.config = folder / f"{name}.toml"
        self.config.write_text(config.replace("{data_dir}", str(self.data)))

    def run(self, *words: str | Path, status: int | None = 0) -> str:
        """Give a command, demand its exit status unless that is None; what it printed."""
        done = subprocess.run(
            [PENSTOCK, *map(str, words), "-c", str(self.config)],
            env=self.marked.environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
        )
        as_demanded = status in (None, done.returncode)
        assert as_demanded, f"penstock {words[0]} ended with {done.returncode}: {done.stderr[-2000:]}"
        return done.stdout

    def json(self, *words: str | Path, status: int | None = 0) -> Any:
        """Give a command with --json; what it printed, parsed."""
        return json.loads(self.run(*words, "--json", status=status))

    def record(self) -> RunRecord:
        """What `up` wrote down."""
        return msgspec.json.decode((self.data / "run.json").read_bytes(), type=RunRecord)

    def wiring(self) -> Wiring:
        """Where everything is."""
        return wiring_from(self.record().wiring)

    @contextlib.contextmanager
    def books(self) -> Iterator[SqlBooks]:
        """The books, beside those who write them."""
        books = SqlBooks(self.wiring().books_url)
        try:
            yield books
        finally:
            books.close()

    def pids(self) -> dict[str, int | None]:
        """The process that each part runs in, None for one that does not answer."""
        return {part["name"]: part["pid"] for part in self.json("status", status=None)["parts"]}

    def end(self) -> None:
        """Stop it in good order if it runs, and whatever is left by force; then fail, if anything was."""
        try:
            if (self.data / "run.json").exists():
                self.run("down")
            left = self.marked.names()
        finally:
            self.marked.end()
        assert left == [], "left running after `penstock down`"
