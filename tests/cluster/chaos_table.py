"""Recovery times: as a table for people, as JSON for programs.

Owns their form. Asserts nothing: how long something takes depends on the machine.
"""

import json
from pathlib import Path

import pytest
from chaos_rig import Rig

NAME = "chaos.json"


def show(rig: Rig, folder: Path, config: pytest.Config) -> None:
    """Write them into the folder, and say on the terminal what was written."""
    report = {
        "seed": rig.seed,
        "events": rig.load.answered,
        "erp_answers_lost": rig.proxy.lost,
        "recoveries": [{"what": what, "seconds": round(seconds, 1)} for what, seconds in rig.recoveries],
    }
    (folder / NAME).write_text(json.dumps(report))
    width = max((len(what) for what, _ in rig.recoveries), default=0)
    lines = [f"  {what:<{width}}  {seconds:6.1f} s" for what, seconds in rig.recoveries]
    head = f"SEED={rig.seed}: {rig.load.answered:,} events; {rig.proxy.lost} answers of the ERP lost; back after:"
    with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("", head, *lines, f"{NAME}: {json.dumps(report)}", sep="\n")
