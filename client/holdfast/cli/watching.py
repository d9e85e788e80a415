"""Watching a task from the command line: to its end, or until Ctrl-C detaches. Detaching never stops a task."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TypeVar

from holdfast.cli.session import Session
from holdfast.cli.summary import summarise
from holdfast.enums import TaskState
from holdfast.errors import HoldfastError
from holdfast.models import Task, TaskResult
from holdfast.task import TaskHandle

__all__ = ["DETACHED", "start", "task_exit_code", "watch_all", "watch_to_end"]

DETACHED = 130

R = TypeVar("R", bound=TaskResult)

_EXIT_CODES = {
    TaskState.COMPLETED: 0,
    TaskState.FAILED: 1,
    TaskState.COMPLETED_WITH_WARNINGS: 3,
    TaskState.CANCELLED: 4,
}


def task_exit_code(task: Task) -> int:
    """0 ok, 1 failed, 3 with warnings, 4 cancelled."""
    return _EXIT_CODES.get(task.state, 1)


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
        with session.view() as view:
            for event in handle.watch(after, on_break=view.broken):
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
        with session.view() as view:
            for event in session.client.tasks.watch_all(on_break=view.broken):
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
