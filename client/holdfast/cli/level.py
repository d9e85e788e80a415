"""How deep a proof goes, as a choice on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import click

from holdfast.enums import VerifyLevel

__all__ = ["LEVELS", "level_option"]

LEVELS: Final[Mapping[str, VerifyLevel]] = {
    "structure": VerifyLevel.STRUCTURE,
    "checksum": VerifyLevel.CHECKSUM,
    "read-data": VerifyLevel.READ_DATA,
}


def level_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give the command the parameter `level`: a key of `LEVELS`, or None."""
    words = "How deep: what fits together, every stored byte, or everything unpacked and hashed. [default: read-data]"
    return click.option("--level", type=click.Choice(list(LEVELS)), help=words)(command)
