"""What is checked before anything is started, and where things are."""

from pathlib import Path

import pytest

from actors.wiring import Wiring, archive_root, open_erp
from adapters.settings import load_rulebook_text
from runtime.config import Config, parse
from runtime.errors import ConfigError

ENTITIES = {"mercy": {"name": "Mercy", "opens_on": "2026-01-01"}}


def wired(config: Config) -> Wiring:
    """Everything in its place, with the configured rulebook."""
    places = dict.fromkeys(set(Wiring.__struct_fields__) - {"config", "rulebook_text", "gateway_port"}, "")
    return Wiring(config=config, rulebook_text=load_rulebook_text(config), gateway_port=1, **places)


def with_consumers(*consumers: dict) -> Config:
    """A configuration with these consumers."""
    return parse({"entities": ENTITIES, "consumer": list(consumers), "erp": {"kind": "none"}})


def test_wiring_with_known_flows_is_accepted() -> None:
    """A consumer of flows that the rulebook has, or of every flow, passes; its stream is named after it."""
    config = with_consumers({"name": "money", "flows": ["billing", "card"]}, {"name": "all", "stream": "told"})
    wired(config).check()
    assert [one.stream_name() for one in config.consumer] == ["penstock:status:money", "told"]


def test_wiring_with_a_misspelt_flow_names_it() -> None:
    """A flow that no kind has would never be told of: it is refused, and the known ones are listed."""
    with pytest.raises(ConfigError, match="consumer money: no kind has the flow 'biling'; known are .*billing"):
        wired(with_consumers({"name": "money", "flows": ["biling"]})).check()


def test_wiring_without_an_erp_says_so_to_whoever_asks_one() -> None:
    """`reconcile` has nothing to compare with then: the error names what compares all the same."""
    with pytest.raises(ConfigError, match=r"erp\.kind: with 'none' there is no ERP to ask; .* penstock verify"):
        open_erp(wired(with_consumers()))


@pytest.mark.parametrize(
    ("other", "what"),
    [({"name": "money", "stream": "x"}, "the same name"), ({"name": "b", "stream": "penstock:status:money"}, "stream")],
)
def test_wiring_with_two_consumers_in_one_place_is_refused(other: dict, what: str) -> None:
    """Two consumers can't share a name or a stream: each stream's newest number is one consumer's place."""
    with pytest.raises(ConfigError, match=what):
        with_consumers({"name": "money"}, other)


def test_wiring_of_replicas_needs_a_log_of_ones_own() -> None:
    """How many replicas must confirm is for a log that has some: the embedded one has none."""
    url = {"url": "redis://log.example:6379/0"}
    assert parse({"entities": ENTITIES, "log": {**url, "replicas_min": 2}}).log.replicas_min == 2
    with pytest.raises(ConfigError, match="replicas_min: the embedded Valkey"):
        parse({"entities": ENTITIES, "log": {"replicas_min": 1}})


def test_wiring_archive_root_is_configured_or_in_the_data_folder() -> None:
    """Archive and payloads lie under one root."""
    assert archive_root(parse({"entities": ENTITIES, "archive": {"root": "/mnt/archive"}})) == "/mnt/archive"
    relative = archive_root(parse({"entities": ENTITIES, "archive": {"root": "archive"}}))
    assert relative == str(Path("archive").absolute()), "actors and later commands run in other folders"
    assert archive_root(parse({"entities": ENTITIES})) == str(Path(".penstock/archive").absolute())
