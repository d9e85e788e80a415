from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_server.errors import InvalidArgument, Reason
from holdfast_server.wallets.amounts import COIN, MAX_AMOUNT, decimal_text, parse_amount


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("1", COIN),
        ("10.5", 1_050_000_000),
        ("0.00000001", 1),
        ("0010.50", 1_050_000_000),
        ("92233720368.54775807", MAX_AMOUNT),
        ("1.00000000", COIN),
    ],
)
def test_amounts_are_read_exactly(text, units):
    assert parse_amount(text, "amount") == units


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0", "more than 0"),
        ("0.0", "more than 0"),
        ("0.00000000", "more than 0"),
        ("-1", "decimal number"),
        ("+1", "decimal number"),
        ("1e3", "decimal number"),
        ("NaN", "decimal number"),
        ("Infinity", "decimal number"),
        ("", "decimal number"),
        (" 1", "decimal number"),
        ("1 ", "decimal number"),
        ("1\n", "decimal number"),
        ("1 000", "decimal number"),
        ("1,5", "decimal number"),
        ("1,000.5", "decimal number"),
        ("1.", "decimal number"),
        (".5", "decimal number"),
        ("1.2.3", "decimal number"),
        ("0x10", "decimal number"),
        ("1_000", "decimal number"),
        ("\u0661", "decimal number"),
        ("\uff11\uff10", "decimal number"),
        ("1\u00b2", "decimal number"),
        ("0.000000001", "8 digits"),
        ("1.000000000", "8 digits"),
        (str(10**30), "at most 92233720368.54775807"),
        ("92233720368.54775808", "at most"),
        ("9" * 5000, "decimal number"),
    ],
)
def test_everything_else_is_refused_with_its_reason(text, why):
    with pytest.raises(InvalidArgument) as caught:
        parse_amount(text, "export.amount")
    assert caught.value.reason is Reason.INVALID_FIELD
    assert why in caught.value.message
    assert caught.value.violations[0].field == "export.amount"
    assert len(caught.value.metadata["value"]) <= 80


@given(st.integers(1, MAX_AMOUNT))
def test_what_is_shown_is_read_again(units):
    text = decimal_text(units)
    assert parse_amount(text, "amount") == units
    assert "e" not in text
    assert not ("." in text and text.endswith("0"))


@given(st.text())
def test_any_text_is_read_or_refused(text):
    try:
        assert 1 <= parse_amount(text, "amount") <= MAX_AMOUNT
    except InvalidArgument as error:
        assert error.reason is Reason.INVALID_FIELD  # noqa: PT017


@pytest.mark.parametrize(
    ("units", "text"),
    [(0, "0"), (1, "0.00000001"), (-1, "-0.00000001"), (-150_000_000, "-1.5"), (10**22, "1" + "0" * 14)],
)
def test_amounts_are_shown_without_exponents(units, text):
    assert decimal_text(units) == text
