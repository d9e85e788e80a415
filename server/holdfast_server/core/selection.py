"""Which entries of a source go into a backup: ignore patterns in gitignore's syntax."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pathspec import GitIgnoreSpec

from holdfast_server.errors import invalid_field

__all__ = ["Selection", "check_patterns"]

_MAX_PATTERNS = 1000
_MAX_LENGTH = 4096


class Selection:
    """Decides by patterns, counts what it left out. As in git, nothing below an ignored folder comes back."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._spec = GitIgnoreSpec.from_lines(patterns) if patterns else None
        self.ignored = 0

    def keep(self, path: bytes, is_directory: bool) -> bool:
        """Whether to back up the entry at `path` (relative to the source)."""
        if self._spec is None:
            return True
        text = os.fsdecode(path)
        if self._spec.match_file(text + "/" if is_directory else text):
            self.ignored += 1
            return False
        return True


def check_patterns(patterns: Sequence[str], field: str) -> list[str]:
    """The patterns, if each is one. Raises InvalidArgument/INVALID_FIELD naming the first that is not."""
    if len(patterns) > _MAX_PATTERNS:
        raise invalid_field(field, f"holds {len(patterns)} patterns, at most {_MAX_PATTERNS} are allowed")
    for index, pattern in enumerate(patterns):
        where = f"{field}[{index}]"
        if not pattern.strip():
            raise invalid_field(where, "must not be empty")
        if len(pattern) > _MAX_LENGTH or "\n" in pattern or "\0" in pattern:
            raise invalid_field(where, f"must be one line of at most {_MAX_LENGTH} characters")
        try:
            GitIgnoreSpec.from_lines([pattern])
        except ValueError as error:
            raise invalid_field(where, f"is no gitignore pattern: {error}") from error
    return list(patterns)
