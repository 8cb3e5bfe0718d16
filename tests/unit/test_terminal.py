"""How answers look: amounts in their currency's decimals, and errors in one piece."""

import errno

import pytest
import typer

from actors.cli.terminal import money, print_table, told
from runtime.errors import ConfigError


@pytest.mark.parametrize(
    ("minor", "currency", "shown"),
    [
        (123456, "USD", "1,234.56"),
        (-5, "USD", "-0.05"),
        (7, "", "0.07"),
        (12500, "JPY", "12,500"),
        (-1005, "KWD", "-1.005"),
    ],
)
def test_money_has_the_decimals_of_its_currency(minor, currency, shown):
    """A yen has no hundredth part and a dinar has thousandths; where no currency is known there are two decimals."""
    assert money(minor, currency) == shown


def test_table_shows_amounts_by_the_currency_of_their_row(capsys):
    """Rows of one table may be of several currencies."""
    rows = [{"currency": currency, "amount_minor": 12500} for currency in ("JPY", "USD")]
    print_table("amounts", rows, ["currency", "amount_minor"])
    shown = capsys.readouterr().out
    assert "12,500" in shown and "125.00" in shown


def test_error_stays_on_one_line_where_there_is_no_terminal(capsys):
    """A path or a command in it can be copied, and a log has a line for it."""
    text = "no such file: " + "/".join(["folder"] * 30) + " and more"
    with pytest.raises(typer.Exit) as ended, told():
        raise ConfigError(text)
    assert ended.value.exit_code == 2 and f"error: {text}\n" == capsys.readouterr().err


def test_full_disk_is_told_in_a_sentence(capsys):
    """Where it is and what to see to; an error of the system that is no disk's is somebody's fault and keeps its
    traceback."""
    with pytest.raises(typer.Exit) as ended, told():
        raise OSError(errno.ENOSPC, "No space left on device", "/data/run.new")
    assert ended.value.exit_code == 2
    assert capsys.readouterr().err.startswith("error: /data/run.new: No space left on device; see that there is room")
    with pytest.raises(BrokenPipeError), told():
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")
