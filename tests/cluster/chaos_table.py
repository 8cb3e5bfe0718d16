"""Recovery times: as a table for people, as JSON for programs.

Owns their form. Asserts nothing: how long something takes depends on the machine.
"""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from chaos_rig import Rig

NAME = "chaos.json"


def show(rig: Rig, folder: Path, say: Callable[[str], None]) -> None:
    """Write them into the folder, and say how often each fault was, and how long it took at worst."""
    took: dict[str, list[float]] = defaultdict(list)
    for what, seconds in rig.recoveries:
        took[what].append(round(seconds, 1))
    report = {
        "seed": rig.seed,
        "events": rig.load.answered,
        "proofs": rig.proofs,
        "erp_answers_lost": rig.proxy.lost,
        "recoveries": {what: {"count": len(each), "worst_s": max(each)} for what, each in took.items()},
    }
    (folder / NAME).write_text(json.dumps(report))
    width = max(map(len, took), default=0)
    lines = [f"  {what:<{width}}  {len(each):3} times, at worst {max(each):6.1f} s" for what, each in took.items()]
    head = (
        f"SEED={rig.seed}: {rig.load.answered:,} events acknowledged, {rig.proxy.lost} answers of the ERP lost, "
        f"proved {rig.proofs} times; back after:"
    )
    say("\n".join([head, *lines, f"{NAME}: {json.dumps(report)}"]))
