"""A program that stays connected to an installation's Ray: each line it reads names a question, each it prints answers.

`ping`: health of every part, null for the silent. `checkpoint`: every worker's archive is brought up to date, true if
all did. A command of its own connects anew each time, which takes seconds.
"""

import contextlib
import json
import os
import sys
from typing import Any

import msgspec

from actors.cli.installation import Installation
from adapters import settings
from runtime.errors import PenstockError

PING_S, CHECKPOINT_S = 2.0, 60.0


def ping(stage: Any) -> dict[str, Any]:
    """Health by name."""
    health = stage.ping(stage.names, PING_S)
    return {name: msgspec.to_builtins(health.get(name)) for name in stage.names}


def checkpoint(stage: Any) -> bool:
    """Whether every worker has written one."""
    workers = [name for name in stage.names if name.startswith("worker-")]
    with contextlib.suppress(PenstockError):
        for name in workers:
            stage.call(name, "checkpoint_now", CHECKPOINT_S)
        return True
    return False


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray tells whoever listens to standard output that a node has died
    with Installation(settings.load(sys.argv[1])).stage() as stage:
        for line in sys.stdin:
            print(json.dumps({"ping": ping, "checkpoint": checkpoint}[line.strip()](stage)), file=answers, flush=True)
