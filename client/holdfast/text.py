"""Values as text for people: sizes in binary units, times in local ISO form, names that cannot steer a terminal."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

from holdfast.models import Progress, Task

__all__ = ["amount", "count", "eta", "local_time", "percent", "progress_line", "safe", "size", "span", "task_title"]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def size(number: int | None) -> str:
    """`1536` -> `1.5 KiB`; None -> `?`."""
    if number is None:
        return "?"
    value = float(number)
    for unit in _UNITS[:-1]:
        # 1023.95 would round to 1024.0 of a unit.
        if value < (1000 if unit == "B" else 1023.95):
            return f"{number} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} {_UNITS[-1]}"


def amount(value: Decimal) -> str:
    """`135,950.0001`; never an exponent."""
    return f"{value:,f}"


def count(number: int, noun: str, plural: str = "") -> str:
    """`1 file`, `1,204 files`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {plural or noun + 's'}"


def span(value: timedelta | None) -> str:
    """`0:07`, `1:02:03`; None -> `?`."""
    if value is None:
        return "?"
    seconds = max(0, round(value.total_seconds()))
    hours, seconds = divmod(seconds, 3600)
    minutes, seconds = divmod(seconds, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def eta(progress: Progress) -> str:
    """`0:05-0:09 left`; empty while nothing can be said."""
    low, high = progress.eta_low, progress.eta_high
    if low is None or high is None:
        return ""
    first, last = span(low), span(high)
    return f"{first} left" if first == last else f"{first}-{last} left"


def percent(part: int, whole: int) -> str:
    """`33.3 %`; `-` of nothing."""
    return f"{part * 100 / whole:.1f} %" if whole else "-"


def local_time(value: datetime | None) -> str:
    """Local time as `2025-06-15 17:06:40+02:00`; None -> `-`."""
    return "-" if value is None else value.astimezone().isoformat(sep=" ", timespec="seconds")


def safe(text: str) -> str:
    """One line without control and invisible characters; those become escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in text)


def task_title(task: Task) -> str:
    """What a task is about, in a few words: `backup default, mail`."""
    names = ", ".join(task.source_ids[:3])
    if task.source_count > 3:
        names += f" and {task.source_count - 3} more"
    kind = task.kind.lower().replace("_", " ")
    return safe(f"{kind} {names}".strip()) + (" (dry run)" if task.dry_run else "")


def progress_line(progress: Progress) -> str:
    """`45.0 %  1.2 GiB of 3.4 GiB  123 of 456 files  85.3 MiB/s  0:05-0:09 left`, as far as it is known."""
    parts = []
    if progress.percent is not None:
        parts.append(f"{progress.percent:.1f} %")
    about = "~" if progress.totals_estimated else ""
    done = size(progress.original_size)
    parts.append(done if progress.total_size is None else f"{done} of {about}{size(progress.total_size)}")
    if progress.total_files is None:
        parts.append(count(progress.files, "file"))
    else:
        parts.append(f"{progress.files:,} of {about}{count(progress.total_files, 'file')}")
    if progress.bytes_per_second:
        parts.append(f"{size(progress.bytes_per_second)}/s")
    if left := eta(progress):
        parts.append(left)
    return "  ".join(parts)
