"""`--keep-...`: which backups of each source stay; and what else is done to a repository after a backup."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import click

from holdfast.retention import Maintenance, RetentionPolicy

__all__ = ["maintenance_options", "retention_options"]

_SPAN = re.compile(r"(\d{1,6})(h|d|w)")
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_RULES = {
    "last": "Keep the newest N backups of each source.",
    "hourly": "Keep the newest of each of N hours that have one.",
    "daily": "The same of N days (UTC).",
    "weekly": "The same of N weeks, which begin on Monday.",
    "monthly": "The same of N months.",
    "yearly": "The same of N years.",
}


def retention_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give the command the parameter `retention`: a `RetentionPolicy`, or None when no rule is given."""

    @functools.wraps(command)
    def with_policy(*arguments: Any, **values: Any) -> Any:
        rules = {name: values.pop(name) for name in (*(f"keep_{word}" for word in _RULES), "keep_within")}
        given = any(rule is not None for rule in rules.values())
        return command(*arguments, retention=RetentionPolicy(**rules) if given else None, **values)

    options = [
        click.option(f"--keep-{word}", type=click.IntRange(min=1), metavar="N", help=text)
        for word, text in _RULES.items()
    ]
    within = "Keep all that are at most so much older than the newest: 36h, 30d, 8w."
    options.append(click.option("--keep-within", callback=_span, metavar="TIME", help=within))
    for option in reversed(options):
        with_policy = option(with_policy)
    return with_policy


def maintenance_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give the command the parameter `maintenance`: a `Maintenance`, or None when nothing is asked for."""

    @functools.wraps(command)
    def with_maintenance(
        *arguments: Any, retention: RetentionPolicy | None, compact: bool, check_percent: int, **values: Any
    ) -> Any:
        wanted = retention is not None or compact or check_percent > 0
        asked = Maintenance(retention=retention, compact=compact, check_percent=check_percent) if wanted else None
        return command(*arguments, maintenance=asked, **values)

    share = "Then prove this share of the repository's bytes, in turn."
    for option in (
        click.option("--check-percent", type=click.IntRange(0, 100), default=0, metavar="N", help=share),
        click.option("--compact", is_flag=True, help="Then merge what is small in the repository."),
    ):
        with_maintenance = option(with_maintenance)
    return retention_options(with_maintenance)


def _span(_context: click.Context, _parameter: click.Parameter, text: str | None) -> timedelta | None:
    if text is None:
        return None
    found = _SPAN.fullmatch(text)
    if found is None or not int(found[1]):
        raise click.BadParameter("write a time such as 36h, 30d or 8w")
    return int(found[1]) * _UNITS[found[2]]
