"""Shows the events of one or several tasks: live bars, plain lines, or JSON lines.

    with progress.LiveView() as view:
        for event in handle.watch(on_break=view.broken):
            view.show(event)

A view only draws; it never calls the server, and dropping it changes nothing.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from holdfast.enums import TaskState
from holdfast.errors import HoldfastError
from holdfast.models import Event, Progress, Task, TaskProblem
from holdfast.plain import to_dict
from holdfast.text import count, progress_line, safe, size, task_title

__all__ = ["JsonView", "LiveView", "PlainView", "SilentView", "View"]

_SHOWN_TASKS = 12


class View(Protocol):
    """What every view can do."""

    def __enter__(self) -> View: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, event: Event) -> None:
        """Take one event in."""
        ...

    def broken(self, error: HoldfastError, delay: float) -> None:
        """The stream broke and is taken up again; fits `on_break`."""
        ...


class SilentView:
    """Shows nothing."""

    def __enter__(self) -> View:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def show(self, event: Event) -> None:
        """Nothing."""

    def broken(self, error: HoldfastError, delay: float) -> None:
        """Nothing."""


class JsonView(SilentView):
    """One JSON object per line and event, with `"type": "event"`; a broken stream gives `"type": "reconnect"`."""

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file or sys.stdout

    def show(self, event: Event) -> None:
        """Write the event."""
        self._write({"type": "event", **to_dict(event)})

    def broken(self, error: HoldfastError, delay: float) -> None:
        """Write what broke the stream."""
        self._write({"type": "reconnect", "message": error.message, "reason": error.label, "delay": round(delay, 3)})

    def _write(self, value: dict[str, Any]) -> None:
        # Flushed by line: a reader at the other end of a pipe wants events when they happen.
        print(json.dumps(value, ensure_ascii=False), file=self._file, flush=True)


class PlainView(SilentView):
    """Lines for logs and pipes: each change of state, and per task at most one line a second of anything else."""

    def __init__(
        self, file: TextIO | None = None, *, interval: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._file = file or sys.stdout
        self._interval = interval
        self._clock = clock
        self._titles: dict[str, str] = {}
        self._states: dict[str, TaskState] = {}
        self._last: dict[str, float] = {}
        self._broken = False

    def show(self, event: Event) -> None:
        """Write a line, if it is time for one."""
        self._broken = False
        if event.task is not None:
            self._show_task(event, event.task)
            return
        now = self._clock()
        if now - self._last.get(event.task_id, float("-inf")) < self._interval:
            return
        if event.progress is not None:
            text = f"{event.progress.phase}  {progress_line(event.progress)}"
            if event.progress.current_file:
                text += f"  {safe(event.progress.current_file)}"
        elif event.problem is not None:
            text = f"warning {event.warning_count}: {_problem(event.problem)}"
        else:
            return
        self._last[event.task_id] = now
        self._line(event, text)

    def broken(self, error: HoldfastError, delay: float) -> None:  # noqa: ARG002  on_break passes it
        """Say it once until events come again."""
        if not self._broken:
            print(f"connection lost, trying again: {safe(error.message)}", file=self._file, flush=True)
        self._broken = True

    def _show_task(self, event: Event, task: Task) -> None:
        self._titles[task.task_id] = task_title(task)
        if self._states.get(task.task_id) is not task.state:
            self._line(event, _state_text(task))
        self._states[task.task_id] = task.state

    def _line(self, event: Event, text: str) -> None:
        when = event.time.astimezone().strftime("%H:%M:%S") if event.time else "--:--:--"
        title = self._titles.get(event.task_id, event.task_id)
        print(f"{when} {title}: {text}", file=self._file, flush=True)


class LiveView:
    """Bars on a terminal: bytes, files, speed, time left, phase and file of each live task.

    Tasks that ended move up into the scrolled text as one line.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._tasks: dict[str, Task] = {}
        self._progress: dict[str, Progress] = {}
        self._warnings: dict[str, int] = {}
        self._trouble = ""
        self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=8, transient=True)

    def __enter__(self) -> View:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, event: Event) -> None:
        """Take it in; the screen follows eight times a second."""
        self._trouble = ""
        if event.task is not None:
            if event.task.ended:
                self._finish(event.task)
                return
            self._tasks[event.task_id] = event.task
            self._warnings[event.task_id] = event.task.warning_count
            if event.task.progress is not None:
                self._progress[event.task_id] = event.task.progress
        elif event.progress is not None:
            self._progress[event.task_id] = event.progress
        elif event.warning_count is not None:
            self._warnings[event.task_id] = event.warning_count

    def broken(self, error: HoldfastError, delay: float) -> None:  # noqa: ARG002  on_break passes it
        """Shown below the bars until events come again."""
        self._trouble = f"connection lost, trying again: {safe(error.message)}"

    def _finish(self, task: Task) -> None:
        for known in (self._tasks, self._progress, self._warnings):
            known.pop(task.task_id, None)
        line = Text(f"{task_title(task)}: {_state_text(task)}", style=_STYLES.get(task.state, ""))
        self._console.print(line, soft_wrap=True)

    def _render(self) -> RenderableType:
        rows: list[RenderableType] = []
        # A copy: the screen is drawn by a thread of its own.
        tasks = list(self._tasks.values())
        for task in tasks[:_SHOWN_TASKS]:
            rows += self._rows(task)
        if len(tasks) > _SHOWN_TASKS:
            rows.append(Text(f"and {len(tasks) - _SHOWN_TASKS} more tasks", style="dim"))
        if self._trouble:
            rows.append(Text(self._trouble, style="yellow", no_wrap=True, overflow="ellipsis"))
        return Group(*rows)

    def _rows(self, task: Task) -> list[RenderableType]:
        progress = self._progress.get(task.task_id)
        head = Text(task_title(task), style="bold", no_wrap=True, overflow="ellipsis")
        phase = progress.phase if progress and task.state is TaskState.RUNNING else _state_text(task)
        head.append(f"  {phase}", style="not bold cyan")
        if warnings := self._warnings.get(task.task_id, 0):
            head.append(f"  {count(warnings, 'warning')}", style="not bold yellow")
        if progress is None:
            return [head]
        # A row of its own for the bar: beside the figures a terminal of 80 columns leaves it nothing.
        width = min(max(self._console.width - 2, 8), 60)
        bar = Table.grid()  # a ProgressBar alone ends without a line end
        bar.add_row(
            ProgressBar(total=100, completed=progress.percent or 0, width=width, pulse=progress.percent is None)
        )
        figures = Text(progress_line(progress), no_wrap=True, overflow="ellipsis")
        # The end of a path says more than its beginning.
        current, room = safe(progress.current_file), max(self._console.width - 2, 8)
        if len(current) > room:
            current = "…" + current[-(room - 1) :]
        return [head, bar, figures, Text(current, style="dim", no_wrap=True)]


_STYLES = {
    TaskState.COMPLETED: "green",
    TaskState.COMPLETED_WITH_WARNINGS: "yellow",
    TaskState.FAILED: "red",
    TaskState.CANCELLED: "yellow",
}


def _state_text(task: Task) -> str:
    text = str(task.state)
    if task.state is TaskState.PENDING:
        if task.queue_position is not None:
            text += f", place {task.queue_position} in the queue"
        if task.blocked_by:
            text += ", waits for " + ", ".join(safe(blocker.resource) for blocker in task.blocked_by[:3])
    elif task.state is TaskState.RUNNING and task.attempt > 1:
        text += f", attempt {task.attempt}"
    elif task.error is not None:
        text += f": {safe(task.error.message)}"
    elif task.state is TaskState.CANCELLED and task.cleanup is not None:
        removed = count(task.cleanup.files_removed, "file")
        text += f", {removed} removed, {size(task.cleanup.bytes_freed)} freed"
    elif task.ended and task.warning_count:
        text += f", {count(task.warning_count, 'warning')}"
    return text


def _problem(problem: TaskProblem) -> str:
    return safe(f"{problem.message} ({problem.reason})")
