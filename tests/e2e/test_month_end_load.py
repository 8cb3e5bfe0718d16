"""The month end in its shortest form: what `make load` runs, with Locust, an ERP outage, and its proof."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECONDS, EVENTS_PER_S = 20, 20
TIMEOUT_S = 270.0


@pytest.mark.timeout(TIMEOUT_S + 20)
def test_a_short_month_end_loses_nothing_and_books_nothing_twice(tmp_path):
    """Through a peak and an ERP that is away, all that Locust was told is stored is booked, posted, derived alike."""
    if find_spec("locust") is None:  # to import it would make its gevent this process's threads
        pytest.skip("Locust is not installed (the extra `bench`)")
    command = [sys.executable, "-m", "benchmarks.load", "--out", str(tmp_path)]
    command += ["--seconds", str(SECONDS), "--events-per-s", str(EVENTS_PER_S)]
    environment = {**os.environ, "TMPDIR": "/tmp"}  # sockets' paths must stay short
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as load:
        try:
            said, _ = load.communicate(timeout=TIMEOUT_S)
        finally:
            load.terminate()  # it ends what it started
    assert load.returncode == 0, said.decode()[-2_000:]
    result = json.loads((tmp_path / "result.json").read_text())
    figures = result["figures"]
    assert result["note"] == "nothing lost, nothing twice"
    assert 0 < figures["accepted_events"] <= figures["offered_events"]
    assert figures["posted_events"] > 0 and figures["verified_events"] > 0
    assert {path.name for path in tmp_path.iterdir()} >= {"load.png", "load.json", "report.html", "client.jsonl"}
