"""Configuration from file and environment, and the key for tokens."""

import stat
from datetime import date
from pathlib import Path

import pytest

from adapters.settings import DEMO_FILE, checked, load, load_rulebook_text, parse_text, token_key
from runtime.config import Config, EntitySection, MappingRow, parse
from runtime.errors import ConfigError
from runtime.ledger.rule_file import parse_rulebook
from runtime.limits import Limits

REPOSITORY = Path(__file__).parents[2]
MINIMAL = '[entities.mercy]\nname = "Mercy"\nopens_on = 2026-01-01\n'


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder to work in, and no token key from outside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PENSTOCK_TOKEN_KEY", raising=False)


def written(text: str, name: str = "penstock.toml") -> str:
    Path(name).write_text(text)
    return name


def test_load_without_path_reads_file_of_this_folder() -> None:
    """./penstock.toml is found by itself, and what it leaves out has its default."""
    written(MINIMAL)
    assert load() == parse({"entities": {"mercy": {"name": "Mercy", "opens_on": date(2026, 1, 1)}}})


def test_load_missing_file_names_it_and_the_remedy() -> None:
    """A missing file is named together with what to do."""
    with pytest.raises(ConfigError, match=r"penstock\.toml: No such file.*penstock\.example\.toml"):
        load()


def test_load_broken_toml_names_file_and_line() -> None:
    """A syntax error is placed by file and line."""
    with pytest.raises(ConfigError, match=r"broken\.toml: not TOML: .*line 5.*"):
        load(written(MINIMAL + "\n[runtime\n", "broken.toml"))


def test_load_bytes_that_are_no_text_are_refused() -> None:
    """A file that is no UTF-8 is an error of the same type."""
    Path("penstock.toml").write_bytes(b"name = \xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load()


def test_parse_text_reads_as_a_file_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text is read with the environment over it, and its syntax errors name the line."""
    monkeypatch.setenv("PENSTOCK_GATEWAY__PORT", "7800")
    assert parse_text(MINIMAL) == load(written(MINIMAL))
    with pytest.raises(ConfigError, match=r"^demo: not TOML: .*line 1"):
        parse_text("a = \nb = 1\n", "demo")


def test_checked_part_names_what_is_wrong() -> None:
    """A row from elsewhere is checked like one in the file."""
    assert checked(MappingRow, {"role": "CASH", "account": "1010", "valid_from": "2026-01-01"}).role == "CASH"
    with pytest.raises(ConfigError, match="^role: "):
        checked(MappingRow, {"role": "cash", "account": "1010"})


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[gateway]\nprot = 1\n", "gateway.prot"),
        ("[gateway]\nport = 70000\n", "gateway.port"),
        ("[limits]\nframe_rows_max = 0\n", "limits"),
        ("[limits]\nping_timeout_s = 1\n", "limits"),
        ('[log]\nurl = "log.example"\n', "log.url: no such address"),
        ('[log]\nurl = "redis://127.0.0.1:port/0"\n', "log.url: no such address"),
        ('[archive]\nroot = "s3://bucket/archive"\n', "archive.root: name a folder"),
        ('[[feeds]]\nname = "card"\nstream = "s"\nurl = "http://host"\n', "feeds.0.url: no such address"),
        ('[[consumer]]\nname = "card"\nurl = "host:6379"\n', "consumer.0.url: no such address"),
        ('[[mapping]]\nentity = "nobody"\nrole = "CASH"\naccount = "1"\n', "mapping.0.entity"),
    ],
)
def test_load_wrong_setting_names_its_key(text: str, place: str) -> None:
    """A wrong setting is named by its path in the file."""
    with pytest.raises(ConfigError, match=place):
        load(written(MINIMAL + text))


@pytest.mark.parametrize(
    "url",
    [
        "redis://log",
        "rediss://user:p@ss:word@log.example:6379/0?ssl_cert_reqs=none",
        "redis://[::1]:6379/1",
        "unix:///run/log.sock?db=1",
    ],
)
def test_load_takes_every_form_of_a_redis_address(url: str) -> None:
    """Those that the client takes."""
    assert load(written(MINIMAL + f'[log]\nurl = "{url}"\n')).log.url == url


def test_load_environment_overrides_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """PENSTOCK_SECTION__KEY wins over the file, at any depth, and leaves the keys beside it as they are."""
    monkeypatch.setenv("PENSTOCK_GATEWAY__PORT", "7800")
    monkeypatch.setenv("PENSTOCK_ENTITIES__MERCY__CURRENCY", "EUR")
    monkeypatch.setenv("PENSTOCK_LIMITS__FEED_BATCH_ROWS_MAX", "10")
    monkeypatch.setenv("PENSTOCK_FEEDS", '[{"name": "card", "stream": "cards"}]')
    config = load(written(MINIMAL + '[gateway]\nport = 1\nhost = "0.0.0.0"\n'))
    assert (config.gateway.port, config.gateway.host) == (7800, "0.0.0.0")
    assert config.entities["mercy"] == EntitySection(name="Mercy", currency="EUR", opens_on=date(2026, 1, 1))
    assert (config.bounds().feed_batch_rows_max, config.feeds[0].stream) == (10, "cards")


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("PENSTOCK_GATEWAY__PROT", "7800", "gateway.prot"),
        ("PENSTOCK_GATEWY__PORT", "7800", "PENSTOCK_GATEWY__PORT"),
        ("PENSTOCK_GATEWAY__PORT", "many", "gateway.port"),
        ("PENSTOCK_FEEDS", "[card", "feeds"),
    ],
)
def test_load_wrong_environment_names_it(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    """A misspelt or unreadable variable is an error that names it, and does not repeat its value."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=message) as refused:
        load(written(MINIMAL))
    assert value not in str(refused.value)


def test_load_ignores_variables_that_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables such as PENSTOCK_TOKEN_KEY belong to others and don't disturb."""
    monkeypatch.setenv("PENSTOCK_TOKEN_KEY", "sixteen bytes or more")
    assert load(written(MINIMAL)).entities.keys() == {"mercy"}


def test_example_file_shows_every_setting_with_its_default() -> None:
    """The example loads, names every section and key there is, and its values are the defaults."""
    config = load(str(REPOSITORY / "penstock.example.toml"))
    default = parse({"entities": {"x": {"name": "x", "opens_on": date(2026, 1, 1)}}})
    assert config.model_fields_set == set(Config.model_fields)
    for name in ("runtime", "log", "books", "archive", "gateway", "payloads", "erp"):
        section = getattr(config, name)
        assert section == getattr(default, name) and section.model_fields_set == set(type(section).model_fields), name
    for section in (config.feeds[0], config.consumer[0], config.entities["general"], config.mapping[0]):
        assert section.model_fields_set == set(type(section).model_fields)
    assert config.bounds() == Limits()


def test_demo_file_maps_every_role_of_the_standard_rulebook() -> None:
    """In the demonstration every role has an account for every entity, at least in some department."""
    config = load(str(DEMO_FILE))
    rulebook = parse_rulebook(load_rulebook_text(config))
    for entity in config.entities:
        mapped = {row.role for row in config.mapping if row.entity in ("*", entity)}
        assert mapped >= rulebook.roles() and mapped - rulebook.roles() <= set(rulebook.policy)
    assert config.entities.keys() == {"mercy", "lakeside", "synthea"}
    assert [(feed.name, feed.stream) for feed in config.feeds] == [("card", "penstock:feed:card")]
    assert [consumer.stream_name() for consumer in config.consumer] == ["penstock:status:payables"]


def test_rulebook_is_the_standard_one_unless_configured() -> None:
    """An empty setting means the packaged rulebook, a path means that file, a wrong path an error."""
    config = load(written(MINIMAL))
    assert "[kind.charge_posted]" in load_rulebook_text(config)
    own = config.model_copy(update={"rulebook": written("# mine", "rules.toml")})
    assert load_rulebook_text(own) == "# mine"
    with pytest.raises(ConfigError, match="rulebook: absent.toml"):
        load_rulebook_text(config.model_copy(update={"rulebook": "absent.toml"}))


def test_token_key_is_made_once_and_private() -> None:
    """The first call makes the key file, readable by its owner alone; every later call gives the same key."""
    config = load(written(MINIMAL))
    key = token_key(config)
    path = Path(".penstock/token.key")
    assert token_key(config) == key and len(key) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["token.key"]


def test_token_key_from_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """PENSTOCK_TOKEN_KEY is taken as it is, and no file is made."""
    monkeypatch.setenv("PENSTOCK_TOKEN_KEY", "sixteen bytes or more")
    assert token_key(load(written(MINIMAL))) == b"sixteen bytes or more"
    assert not Path(".penstock").exists()


@pytest.mark.parametrize("key", ["", "short-secret", "s" * 65])
def test_token_key_of_wrong_length_is_refused(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """A key too short to protect, or too long for the hash, is an error that does not show it."""
    monkeypatch.setenv("PENSTOCK_TOKEN_KEY", key)
    with pytest.raises(ConfigError, match="PENSTOCK_TOKEN_KEY") as refused:
        token_key(load(written(MINIMAL)))
    assert not key or key not in str(refused.value)


def test_token_key_of_unwritable_folder_is_refused() -> None:
    """When the key can't be kept, the error names the file and the other way."""
    written("", "occupied")
    config = load(written(MINIMAL + '[runtime]\ndata_dir = "occupied"\n'))
    with pytest.raises(ConfigError, match=r"occupied/token\.key.*PENSTOCK_TOKEN_KEY"):
        token_key(config)
