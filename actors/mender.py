"""Looks after the servers that an installation brought along: Valkey and Tryton, when they are embedded.

Owns when a process is started that starts the dead ones again: a process of its own, as what an actor starts itself
ends with that actor. Never waits: the supervisor asks it once a round. Servers that somebody else runs are theirs.
"""

import subprocess
import sys
from collections.abc import Callable

import structlog

ROUNDS_BETWEEN_MAX = 30  # tries to start what does not start


class Mender:
    """Call it once a round. `dead` names the installation's servers that have died."""

    def __init__(self, run_folder: str, dead: Callable[[], list[str]]) -> None:
        self._command = [sys.executable, "-m", "actors.cli.mending", run_folder]
        self._dead = dead
        self._at_work: subprocess.Popen | None = None
        self._failures = self._rounds_left = 0
        self._logger = structlog.get_logger("mender")

    def __call__(self) -> None:
        """Start what starts dead servers again, unless that is at work already, or has just failed."""
        if self._at_work is not None and not self._has_ended(self._at_work):
            return
        if self._rounds_left:
            self._rounds_left -= 1
            return
        dead = self._dead()
        for name in dead:
            self._logger.warning("embedded_server_died", owner=name)
        if dead:
            self._at_work = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, start_new_session=True)

    def _has_ended(self, at_work: subprocess.Popen) -> bool:
        status = at_work.poll()
        if status is None:
            return False
        self._at_work = None
        self._failures = self._failures + 1 if status else 0
        self._rounds_left = min(2**self._failures - 1, ROUNDS_BETWEEN_MAX)
        return True
