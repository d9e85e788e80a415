"""Which entries of a source go into a backup, by gitignore's patterns, and which of a backup come out, by paths."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pathspec import GitIgnoreSpec

from holdfast_server.errors import NotFound, Reason, invalid_field
from holdfast_server.storage.names import escape

__all__ = ["PathSelection", "Selection", "check_patterns"]

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


class PathSelection:
    """Selects what lies at or below the named paths of a backup, and remembers which of them were met."""

    def __init__(self, paths: Sequence[bytes]) -> None:
        self._paths = frozenset(path.strip(b"/") for path in paths)
        self._lengths = frozenset(map(len, self._paths))
        self._open = set(self._paths)

    def __call__(self, path: bytes) -> bool:
        selected, end = False, len(path)
        while end > 0:
            if end in self._lengths and path[:end] in self._paths:
                selected = True
                self._open.discard(path[:end])
            if selected and not self._open:
                break
            end = path.rfind(b"/", 0, end)
        return selected

    def require_met(self) -> None:
        """Raises NotFound/ENTRY_NOT_FOUND naming a path that no entry was asked about."""
        if self._open:
            missing = escape(min(self._open))
            raise NotFound(Reason.ENTRY_NOT_FOUND, f"the backup holds no entry {missing}", metadata={"path": missing})


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
