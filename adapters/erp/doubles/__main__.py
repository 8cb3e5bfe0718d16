"""`python -m adapters.erp.doubles NAME --port N`: serve one double until it is stopped, and say how to reach it."""

import argparse
import signal
import tempfile
import threading
from pathlib import Path

from adapters.clock import WallClock
from adapters.erp.doubles.catalog import EXAMPLE_ACCOUNTS, EXAMPLE_COMPANY, doubles, example_ledger, section_to
from adapters.erp.doubles.server import SECRETS, DoubleServer
from adapters.erp.doubles.trouble import FAULTS, Trouble


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    known = doubles()
    parser = argparse.ArgumentParser(prog="python -m adapters.erp.doubles", description=__doc__)
    parser.add_argument("name", choices=sorted(known))
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--trouble", type=float, default=0.0, help="the share of write requests that meet trouble")
    parser.add_argument("--seed", type=int, default=0, help="of the trouble")
    given = parser.parse_args()
    share = given.trouble / (len(FAULTS) - 1)
    trouble = Trouble(given.seed, {fault: share for fault in FAULTS if fault != "none"})
    double = known[given.name](example_ledger(), clock=WallClock(), trouble=trouble)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with DoubleServer(double, given.port) as server, tempfile.TemporaryDirectory() as folder:
        _tell(section_to(double, server.url, Path(folder)))
        stopped.wait()


def _tell(section: dict) -> None:
    """How to reach it, as TOML and as variables."""
    for name, value in SECRETS.items():
        print(f"# export {name}={value}")
    print("[erp]")
    for name, value in section.items():
        print(f"{name} = {_toml(value)}")
    print(f'companies = {{ general = "{EXAMPLE_COMPANY}" }}  # accounts: {", ".join(EXAMPLE_ACCOUNTS)}', flush=True)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_toml(inner)}" for name, inner in value.items()) + " }"
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


if __name__ == "__main__":
    main()
