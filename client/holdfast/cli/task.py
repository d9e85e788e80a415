"""`holdfast task ...`: what runs, what ran, and why it went as it did."""

from __future__ import annotations

import itertools
import sys

import click

from holdfast.cli.backup import write_download
from holdfast.cli.session import Command, Session, pass_session
from holdfast.cli.summary import summarise
from holdfast.cli.watching import DETACHED, watch_all, watch_to_end
from holdfast.enums import TaskKind, TaskState
from holdfast.models import Task
from holdfast.text import local_time, progress_line, safe, task_title

__all__ = ["task"]


def _words(names: type[TaskKind] | type[TaskState]) -> click.Choice[str]:
    return click.Choice([name.lower().replace("_", "-") for name in names.__members__ if name != "UNKNOWN"])


def _name(word: str) -> str:
    return word.upper().replace("-", "_")


@click.group()
def task() -> None:
    """Show, watch, cancel and resume tasks."""


@task.command("list", cls=Command)
@click.option("--source", "source_id", default="", metavar="SOURCE_ID", help="Only tasks that work on this source.")
@click.option("--kind", "kinds", multiple=True, type=_words(TaskKind), help="Only this kind; may be repeated.")
@click.option("--state", "states", multiple=True, type=_words(TaskState), help="Only this state; may be repeated.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(min=0), help="At most so many; 0: all.")
@pass_session
def list_tasks(session: Session, source_id: str, kinds: tuple[str, ...], states: tuple[str, ...], limit: int) -> int:
    """List tasks, newest first."""
    matching = session.client.tasks.list(
        source_id=source_id,
        kinds=[TaskKind[_name(kind)] for kind in kinds],
        states=[TaskState[_name(state)] for state in states],
    )
    found = list(itertools.islice(matching, limit + 1 if limit else None))
    shown = found[:limit] if limit else found
    for one in shown:
        session.emit("task", one)
    rows = [
        (one.task_id, task_title(one), str(one.state), _percent(one), local_time(one.create_time), one.message)
        for one in shown
    ]
    session.table(["ID", "TASK", "STATE", "DONE", "CREATED", "MESSAGE"], rows)
    if len(found) > len(shown):
        session.note("there are more; use --limit 0 to see all")
    return 0


@task.command(cls=Command)
@click.argument("task_id")
@pass_session
def get(session: Session, task_id: str) -> int:
    """Show one task and, if it has ended, its result."""
    one = session.client.tasks.get(task_id).task
    if session.json:
        session.emit("task", one)
        return 0
    session.record(
        [
            ("id", one.task_id),
            ("task", task_title(one)),
            ("state", str(one.state)),
            ("message", one.message),
            ("created", local_time(one.create_time)),
            ("started", local_time(one.start_time)),
            ("ended", local_time(one.end_time)),
            ("attempt", str(one.attempt)),
            ("sequence", str(one.revision)),
            ("progress", progress_line(one.progress) if one.progress is not None and not one.ended else ""),
            ("waits for", ", ".join(blocker.resource for blocker in one.blocked_by)),
        ]
    )
    if one.ended:
        session.line()
        summarise(session, one)
    return 0


@task.command(cls=Command, epilog="\b\nExamples:\n  holdfast task watch\n  holdfast task watch TASK_ID --after 42")
@click.argument("task_id", required=False)
@click.option(
    "--after", type=click.IntRange(min=0), metavar="N", help="Go on after event N, as Ctrl-C says when it detaches."
)
@pass_session
def watch(session: Session, task_id: str | None, after: int | None) -> int:
    """Watch one task to its end, or all tasks until Ctrl-C.

    The exit code is that of the task: 0 ok, 1 failed, 3 with warnings, 4 cancelled, 130 detached.
    """
    if task_id is not None:
        return watch_to_end(session, session.client.tasks.get(task_id), after)
    if after is not None:
        raise click.UsageError("--after needs a task")
    return watch_all(session)


@task.command(cls=Command)
@click.argument("task_id")
@pass_session
def cancel(session: Session, task_id: str) -> int:
    """Tell a task to stop and undo its work; no error if it has ended."""
    one = session.client.tasks.cancel(task_id)
    session.emit("task", one)
    ended = one.ended and one.state is not TaskState.CANCELLED
    session.line(f"{task_title(one)}: {one.state}{' before it could be cancelled' if ended else ''}")
    return 0


@task.command(cls=Command)
@click.argument("task_id")
@click.option("--detach", is_flag=True, help="Do not wait for it.")
@pass_session
def resume(session: Session, task_id: str, detach: bool) -> int:
    """Finish an export of coins that failed with EXPORT_UNPUBLISHED, and watch it.

    Mend first what its error names, such as a folder that is gone or a full disk. If its coins are encrypted, unlock
    the wallet.
    """
    handle = session.client.tasks.resume(task_id)
    if detach:
        session.emit("task", handle.task)
        session.line(f"{task_title(handle.task)}: {handle.task.state}")
        return 0
    return watch_to_end(session, handle)


@task.command(cls=Command)
@click.argument("task_id")
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until the task has ended.")
@click.option("--from", "from_line", default=1, type=click.IntRange(min=1), metavar="N", help="Begin at line N.")
@pass_session
def log(session: Session, task_id: str, follow: bool, from_line: int) -> int:
    """Print a task's log."""
    try:
        for line in session.client.tasks.log(task_id, from_line=from_line, follow=follow):
            session.emit("log", line)
            session.line(f"{local_time(line.time)} {line.level.ljust(7)} {safe(line.text)}")
            sys.stdout.flush()
    except KeyboardInterrupt:
        return DETACHED
    return 0


@task.command(cls=Command)
@click.argument("task_id")
@pass_session
def problems(session: Session, task_id: str) -> int:
    """List what a task met and went on after."""
    found = list(session.client.tasks.problems(task_id))
    for one in found:
        session.emit("problem", one)
    rows = [(str(one.number), one.source_id, one.reason, one.path, one.message) for one in found]
    session.table(["NUMBER", "SOURCE", "REASON", "PATH", "MESSAGE"], rows)
    return 0


@task.command("download-log", cls=Command)
@click.argument("task_id")
@click.option("-o", "--output", metavar="PATH", help="File or folder; `-` is stdout. [default: this folder]")
@pass_session
def download_log(session: Session, task_id: str, output: str | None) -> int:
    """Fetch a task's log as text. A file that exists is never replaced."""
    if output == "-":
        if session.json:
            raise click.UsageError("--json and -o - both want stdout")
        session.client.tasks.download_log(task_id, sys.stdout.buffer)
        return 0
    write_download(session, session.client.tasks.download_log(task_id, output))
    return 0


def _percent(one: Task) -> str:
    progress = one.progress
    return "" if progress is None or progress.percent is None else f"{progress.percent:.0f} %"
