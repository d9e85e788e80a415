"""`--for TIME`: how long something stays unlocked."""

from __future__ import annotations

import re

import click

__all__ = ["for_option"]

_SPAN = re.compile(r"(\d{1,6})(s|m|h)?")
_SECONDS = {"s": 1, "m": 60, "h": 3600}


def _span(_context: click.Context, _parameter: click.Parameter, text: str | None) -> float | None:
    if text is None:
        return None
    found = _SPAN.fullmatch(text)
    if found is None:
        raise click.BadParameter("write a time such as 90s, 15m or 1h")
    return float(int(found[1]) * _SECONDS[found[2] or "s"])


#: Gives the command a parameter `seconds`: `float | None`.
for_option = click.option(
    "--for", "seconds", callback=_span, metavar="TIME", help="How long: 90s, 15m, 1h; at most 1h. [default: 15m]"
)
