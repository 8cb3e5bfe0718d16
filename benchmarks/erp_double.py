"""An ERP double in a process of its own, for the companies and accounts of the mix: `benchmarks.erp_double NAME`.

Prints what `[erp]` must say as one line of JSON, then obeys lines on its input: `out` ends serving, `back` serves the
same books again at the same port, `quota F` cuts the quota to that part, `report` prints what is booked. Ends when its
input does. `erp_double` starts it and tells it what to do.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import msgspec

from adapters.clock import WallClock
from adapters.erp.doubles.catalog import doubles, section_to
from adapters.erp.doubles.ledger import Company, Ledger
from adapters.erp.doubles.limits import RequestLimits, Window
from adapters.erp.doubles.server import SECRETS, DoubleServer
from benchmarks import measure, workload

WINDOW_S, CALLS_PER_WINDOW = 10.0, 800  # short, so that a cut quota shows within seconds; a call counts ten of them
CONCURRENCY = 5
SETTLE_S = (
    30.0  # the double ends a request within seconds; the real ERP's terms would have a lost answer wait for minutes
)


class Erp:
    """The double's process. `section`: what `[erp]` must say."""

    def __init__(self, process: subprocess.Popen) -> None:
        self._process = process
        self.section = msgspec.json.decode(process.stdout.readline())

    def tell(self, line: str) -> None:
        """Have it do something."""
        print(line, file=self._process.stdin, flush=True)

    def ask(self, line: str) -> dict:
        """Have it answer."""
        self.tell(line)
        return msgspec.json.decode(self._process.stdout.readline())


@contextmanager
def erp_double(name: str) -> Iterator[Erp]:
    """The double of this name, in a process of its own; who calls it finds its secrets in the environment."""
    os.environ.update(SECRETS)
    command = [sys.executable, "-m", "benchmarks.erp_double", name]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=measure.ROOT, text=True) as process:
        yield Erp(process)
        process.stdin.close()


def company(entity: str) -> str:
    """What the double calls an entity."""
    return f"c-{entity}"


def main() -> None:
    """Serve until the input ends."""
    config = workload.configuration()
    accounts = frozenset(row.account for row in config.mapping)
    companies = {company(entity): Company("USD", accounts, date(2026, 1, 1)) for entity in config.entities}
    double = doubles()[sys.argv[1]](Ledger(companies), clock=WallClock())
    double.limits = RequestLimits([Window("requests in 10 s", WINDOW_S, CALLS_PER_WINDOW)], CONCURRENCY)
    server = DoubleServer(double)
    port = int(server.url.rpartition(":")[2])
    with tempfile.TemporaryDirectory() as folder:
        section = section_to(double, server.url, Path(folder))
        per_minute = round(CALLS_PER_WINDOW * 60 / WINDOW_S)
        companies_of = {entity: company(entity) for entity in config.entities}
        # A real ERP's calls of a day would be used up in minutes.
        limits = {"per_minute": per_minute, "per_day": 0, "settle_s": SETTLE_S}
        _say(section | {"companies": companies_of, "limits": limits, "calls_per_minute": per_minute})
        for line in sys.stdin:
            word, *given = line.split()
            if word == "out":
                server.close()
            elif word == "back":
                server = DoubleServer(double, port)
            elif word == "quota":
                double.limits.reduce(float(given[0]))
            elif word == "report":
                _say(_report(double.ledger, double.limits))
    server.close()


def _report(ledger: Ledger, limits: RequestLimits) -> dict:
    keys = ledger.keys()
    return {
        "documents": len(ledger.documents),
        "keys_twice": sum(count > 1 for key, count in keys.items() if key),
        "debit_minor": sum(round(line.debit * 100) for document in ledger.documents for line in document.lines),
        "refused": dict(limits.refused),
    }


def _say(what: dict) -> None:
    print(msgspec.json.encode(what).decode(), flush=True)


if __name__ == "__main__":
    main()
