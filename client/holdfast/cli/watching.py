"""Watching a task from the command line: to its end, or until Ctrl-C detaches. Detaching never stops a task."""

from __future__ import annotations

import contextlib
import signal
import uuid
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, TypeVar

import click

from holdfast.cli.session import Session
from holdfast.cli.summary import summarise
from holdfast.enums import TaskState
from holdfast.errors import HoldfastError
from holdfast.models import Task, TaskResult
from holdfast.task import TaskHandle

__all__ = ["DETACHED", "start", "task_exit_code", "task_options", "watch_all", "watch_to_end"]

DETACHED = 130

R = TypeVar("R", bound=TaskResult)

_EXIT_CODES = {
    TaskState.COMPLETED: 0,
    TaskState.FAILED: 1,
    TaskState.COMPLETED_WITH_WARNINGS: 3,
    TaskState.CANCELLED: 4,
}


class _Interrupts:
    """Lets Ctrl-C come only between events, so that what was shown and the sequence to go on after always agree.

    A second Ctrl-C comes at once: showing an event may hang on a pipe that nobody reads.
    """

    def __init__(self) -> None:
        self._showing = False
        self._pending = False
        self._before: Any = None

    def __enter__(self) -> _Interrupts:
        # Left alone if somebody else handles it, or in a thread that may not.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            with contextlib.suppress(ValueError):
                self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """Around the handling of one event."""
        self._showing = True
        yield
        self._showing = False
        if self._pending:
            raise KeyboardInterrupt

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if not self._showing or self._pending:
            raise KeyboardInterrupt
        self._pending = True


def task_exit_code(task: Task) -> int:
    """0 ok, 1 failed, 3 with warnings, 4 cancelled."""
    return _EXIT_CODES.get(task.state, 1)


def task_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that calls `start`."""
    request_id = click.option(
        "--request-id", metavar="UUID", help="Makes the command safe to repeat: the same id, the same task."
    )
    detach = click.option("--detach", is_flag=True, help="Print the task's id and do not wait for it.")
    return detach(request_id(command))


def start(session: Session, create: Callable[[str], TaskHandle[R]], request_id: str | None, *, detach: bool) -> int:
    """Create a task and, unless `detach`, watch it to its end; the exit code of both.

    `create` gets the request_id, so that an interruption before the answer can say how to find out what happened.
    """
    request_id = request_id or str(uuid.uuid4())
    try:
        handle = create(request_id)
    except KeyboardInterrupt:
        session.note("interrupted before the server answered; the task may have been started.")
        session.note(f"  the same command with `--request-id {request_id}` attaches to it, or starts it once")
        session.emit("detached", {"task_id": None, "request_id": request_id, "after_sequence": None})
        return DETACHED
    if detach:
        session.emit("task", handle.task)
        session.line(handle.task_id)
        session.note(f"watch it:  {session.command('task', 'watch', handle.task_id)}")
        return 0
    return watch_to_end(session, handle)


def watch_to_end(session: Session, handle: TaskHandle[R], after: int | None = None) -> int:
    """Show events until the task has ended, then its result; the exit code."""
    last = after
    try:
        with _Interrupts() as interrupts, session.view() as view:
            for event in handle.watch(after, on_break=view.broken):
                with interrupts.held_back():
                    view.show(event)
                    last = event.sequence
    except KeyboardInterrupt:
        return _detached(session, handle.task_id, last)
    except HoldfastError:
        session.note(f"the task goes on; watch it again: {_watch_command(session, handle.task_id, last)}")
        raise
    summarise(session, handle.task)
    return task_exit_code(handle.task)


def watch_all(session: Session) -> int:
    """Show the events of all tasks until Ctrl-C."""
    try:
        with _Interrupts() as interrupts, session.view() as view:
            for event in session.client.tasks.watch_all(on_break=view.broken):
                with interrupts.held_back():
                    view.show(event)
    except KeyboardInterrupt:
        session.note("stopped watching; the tasks go on.")
    return DETACHED


def _detached(session: Session, task_id: str, last: int | None) -> int:
    session.note(f"\ndetached; task {task_id} goes on.")
    session.note(f"  watch it again:  {_watch_command(session, task_id, last)}")
    session.note(f"  cancel it:       {session.command('task', 'cancel', task_id)}")
    session.emit("detached", {"task_id": task_id, "request_id": None, "after_sequence": last})
    return DETACHED


def _watch_command(session: Session, task_id: str, last: int | None) -> str:
    after = [] if last is None else ["--after", str(last)]
    return session.command("task", "watch", task_id, *after)
