"""`penstock submit`: what people are told of a file, without a gateway behind it."""

from pathlib import Path

import pytest
from typer.testing import CliRunner
from unit.sources.x12_texts import claim, interchange, remittance, write

from actors.cli import app, submission

TWO_ENTITIES = "".join(f'[entities.{name}]\nname = "{name}"\nopens_on = 2026-01-01\n' for name in ("mercy", "north"))
WRONG = remittance("11", *claim("D4", "1", "10*10"))


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder to work in, with a configuration of two entities, and a gateway that is not asked."""
    monkeypatch.chdir(tmp_path)
    Path("penstock.toml").write_text(TWO_ENTITIES)
    monkeypatch.setattr(submission, "submit", lambda *_: None)


def test_submit_of_a_file_that_is_set_aside_says_so_and_where_to_look(tmp_path):
    """A remittance whose sums do not tie sends nothing but its exception; somebody has to be told of that."""
    path = write(tmp_path, interchange(WRONG))
    done = CliRunner().invoke(app, ["submit", str(path), "--entity", "mercy", "--target", "nowhere:1"])
    assert done.exit_code == 0, done.output
    assert "set aside: 1" in done.stdout and "penstock exceptions list" in done.stdout


def test_submit_in_a_format_that_is_unknown_names_the_known_ones(tmp_path):
    """A misspelt format is what is wrong, not the entity that such a file would not name."""
    path = write(tmp_path, interchange(WRONG))
    done = CliRunner().invoke(app, ["submit", str(path), "--format", "853", "--target", "nowhere:1"])
    assert done.exit_code == 2
    assert "853" in done.stderr and "835" in done.stderr and "--entity" not in done.stderr
