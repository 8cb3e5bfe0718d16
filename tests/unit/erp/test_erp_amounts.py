"""Amounts and names on their way to an ERP: exact, and stable."""

from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.erp.http.amounts import decimal_text, json_amount, minor_of
from adapters.erp.http.fault import ErpFault
from adapters.erp.http.naming import plain_name, short_name

MINOR = st.integers(min_value=-(2**63), max_value=2**63)
CURRENCIES = st.sampled_from(["USD", "EUR", "JPY", "KWD"])


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [
        (12345, "USD", "123.45"),
        (-5, "USD", "-0.05"),
        (0, "EUR", "0.00"),
        (7, "JPY", "7"),
        (1234, "KWD", "1.234"),
        (2**63, "USD", "92233720368547758.08"),
    ],
)
def test_decimal_text_has_the_currencys_decimals(minor: int, currency: str, text: str) -> None:
    """Minor units become the decimal that the currency writes."""
    assert decimal_text(minor, currency) == text


@given(MINOR, CURRENCIES)
def test_json_amount_read_back_is_the_same_to_the_last_digit(minor: int, currency: str) -> None:
    """Every amount survives its way through JSON and back, in each currency."""
    body = msgspec.json.encode({"amount": json_amount(minor, currency)})
    assert minor_of(msgspec.json.decode(body, type=dict[str, Decimal])["amount"], currency) == minor


def test_minor_of_a_fraction_of_the_smallest_unit_is_a_fault() -> None:
    """An amount that our books can't hold is not rounded."""
    with pytest.raises(ErpFault):
        minor_of(Decimal("1.005"), "USD")


@given(st.text(min_size=1, max_size=80), st.integers(min_value=4, max_value=40))
def test_short_name_is_stable_and_fits(key: str, chars: int) -> None:
    """A short name has exactly the room that there is, in capital letters and digits, the same each time."""
    name = short_name(key, chars)
    assert len(name) == chars
    assert name == short_name(key, chars)
    assert name.isalnum() and name.upper() == name


@given(st.lists(st.text(min_size=1, max_size=20), min_size=2, max_size=20, unique=True))
def test_short_names_of_different_keys_differ(keys: list[str]) -> None:
    """20 characters tell keys apart."""
    assert len({short_name(key, 20) for key in keys}) == len(keys)


def test_plain_name_keeps_what_is_allowed_and_tells_the_rest_apart() -> None:
    """A key of allowed characters stays; keys that differ only in others get different names."""
    assert plain_name("PS-mercy-0000000001") == "PS-mercy-0000000001"
    assert len({plain_name("PS-a.b-1"), plain_name("PS-a_b-1"), plain_name("PS-a b-1")}) == 3
    assert plain_name("PS-a.b-1").startswith("PS-a_b-1-")
