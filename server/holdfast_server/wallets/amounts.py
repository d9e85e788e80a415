"""Amounts of money: decimal text outside, integers of 1e-8 CloudCoin inside. No float touches them."""

from __future__ import annotations

import re

from holdfast_server.errors import invalid_field

__all__ = ["COIN", "MAX_AMOUNT", "decimal_text", "fixed_text", "parse_amount"]

#: One CloudCoin in units.
COIN = 10**8

#: The largest amount a request may name: what 63 bits hold, 92,233,720,368.54775807.
MAX_AMOUNT = 2**63 - 1

_PLACES = 8
_AMOUNT = re.compile(r"([0-9]{1,40})(?:\.([0-9]{1,40}))?")


def decimal_text(units: int) -> str:
    """An amount as the API shows it: `10.5`, `0.00000001`, `0`; no exponent, no trailing zeros."""
    sign, units = ("-" if units < 0 else ""), abs(units)
    whole, fraction = divmod(units, COIN)
    digits = f"{fraction:0{_PLACES}d}".rstrip("0")
    return f"{sign}{whole}.{digits}" if digits else f"{sign}{whole}"


def fixed_text(units: int) -> str:
    """An amount with all its places, as the wallet program's history has it: `10.50000000`. Not below 0."""
    whole, fraction = divmod(units, COIN)
    return f"{whole}.{fraction:0{_PLACES}d}"


def parse_amount(text: str, field: str) -> int:
    """Units of an amount above 0 such as `10.5`: ASCII digits, at most 8 of them after a point.

    Raises InvalidArgument/INVALID_FIELD that says what is wrong: a sign, an exponent, a comma, a space, too many
    places, nothing at all, zero, more than `MAX_AMOUNT`.
    """
    shown = text[:80]
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise invalid_field(
            field, "must be a decimal number such as 10.5: digits and one point, nothing else", value=shown
        )
    whole, fraction = match[1], match[2] or ""
    if len(fraction) > _PLACES:
        raise invalid_field(field, "must have at most 8 digits after the point: there is no smaller coin", value=shown)
    units = int(whole) * COIN + int(fraction.ljust(_PLACES, "0"))
    if units == 0:
        raise invalid_field(field, "must be more than 0", value=shown)
    if units > MAX_AMOUNT:
        raise invalid_field(field, f"must be at most {decimal_text(MAX_AMOUNT)}", value=shown)
    return units
