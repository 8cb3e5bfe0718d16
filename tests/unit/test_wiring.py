"""What a configuration is checked against before anything is started."""

from importlib.resources import files

import pytest

from actors.wiring import Wiring, archive_root, wiring_from
from runtime.config import Config, parse
from runtime.errors import ConfigError


def configured(*consumers: dict, **sections: dict) -> Config:
    """A configuration with these consumers."""
    entities = {"mercy": {"name": "Mercy", "opens_on": "2026-01-01"}}
    return parse({"entities": entities, "consumer": consumers} | sections)


def wired(config: Config) -> Wiring:
    """Everything in its place, with a rulebook of one kind of flow "billing"."""
    places = dict.fromkeys(set(Wiring.__struct_fields__) - {"config", "rulebook_text", "gateway_port"}, "")
    return Wiring(config=config, rulebook_text=RULEBOOK, gateway_port=1, **places)


EXCEPTIONS = """
[exception.{}]
owner = "integration_support"
severity = "high"
triage_h = 1
resolve_h = 4
action = "none"
"""
RULEBOOK = ""
