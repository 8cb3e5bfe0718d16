"""A program that runs one worker of an installation outside Ray's sight, like one that was cut off from its cluster.

Usage: CONFIG INDEX LOGS. Its process ends by itself when it is fenced, with status 1.
"""

import sys
import time

import msgspec

from actors.cli.installation import Installation
from actors.parts import ThreadShell
from adapters import settings

if __name__ == "__main__":
    config, index, logs = sys.argv[1:]
    installation = Installation(settings.load(config))
    wiring = msgspec.structs.replace(installation.wiring(), logs_folder=logs)
    with installation.stage():
        # Ray reads its environment when it is imported, and `stage` has set it.
        from actors.bootstrap import build_worker

        shell = ThreadShell(f"worker-{index}", lambda: build_worker(wiring, int(index)))
        while True:
            time.sleep(1.0)
