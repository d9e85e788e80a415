"""How tasks look: on a terminal, in a pipe, as JSON, as text."""

from __future__ import annotations

import io
import json
from datetime import timedelta

import pytest
from fake_service import FakeTask
from rich.console import Console

from holdfast import text
from holdfast.convert import to_event
from holdfast.errors import ConnectionFailed
from holdfast.models import Event
from holdfast.progress import JsonView, LiveView, PlainView
from holdfast.v1 import task_pb2


def events(task: FakeTask) -> list[Event]:
    return [to_event(event) for event in task.journal]


def running(steps: int = 5) -> FakeTask:
    task = FakeTask()
    task.state(task_pb2.TASK_STATE_RUNNING)
    for step in range(steps):
        task.progress(step * 10)
    return task


def test_plain_lines_come_at_most_once_a_second_but_for_states() -> None:
    out, now = io.StringIO(), [0.0]
    view = PlainView(out, clock=lambda: now[0])
    task = running(40)
    task.warn("secret.txt")
    task.state(task_pb2.TASK_STATE_COMPLETED_WITH_WARNINGS)
    for event in events(task):
        view.show(event)
        now[0] += 0.1
    lines = out.getvalue().splitlines()
    assert "backup default: PENDING" in lines[0]
    assert "backup default: RUNNING" in lines[1]
    assert "COMPLETED_WITH_WARNINGS, 1 warning" in lines[-1]
    assert len([line for line in lines if "store  " in line]) in (4, 5)
    assert " KiB of 100.0 KiB  " in out.getvalue()
    assert "5.0 MiB/s  0:05-0:09 left  data/file-" in lines[2]
    assert "\x1b" not in out.getvalue()


def test_a_lost_connection_is_said_once() -> None:
    out = io.StringIO()
    view = PlainView(out)
    for _ in range(5):
        view.broken(ConnectionFailed("gone"), 0.1)
    assert out.getvalue().count("connection lost") == 1
    view.show(events(running())[0])
    view.broken(ConnectionFailed("gone"), 0.1)
    assert out.getvalue().count("connection lost") == 2


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_live_bars_fit_the_terminal(width: int) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, height=20, highlight=False, color_system=None)
    task = running(6)
    task.journal[-1].progress.current_file = "deep/" * 40 + "end\x1b[31m.txt"
    with LiveView(console) as view:
        for event in events(task):
            view.show(event)
        assert isinstance(view, LiveView)
        console.print(view._render())
        shown = out.getvalue()
        if width >= 80:
            assert "50.0 %" in shown
            assert "50.0 KiB of 100.0 KiB" in shown
            assert "store" in shown
        assert "\\x1b[31m.txt" in shown
        view.broken(ConnectionFailed("gone"), 1)
        console.print(view._render())
        task.state(task_pb2.TASK_STATE_COMPLETED)
        view.show(events(task)[-1])
    assert "connection lost" in out.getvalue() or width < 40
    assert "COMPLETED" in out.getvalue()


def test_live_view_of_many_tasks_keeps_to_the_screen() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=50)
    view = LiveView(console)
    for _ in range(30):
        for event in events(running(1)):
            view.show(event)
    console.print(view._render())
    assert "and 18 more tasks" in console.file.getvalue()  # type: ignore[attr-defined]


def test_json_lines() -> None:
    out = io.StringIO()
    task = running()
    task.warn("a\nb")
    view = JsonView(out)
    for event in events(task):
        view.show(event)
    view.broken(ConnectionFailed("gone"), 0.25)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["type"] for line in lines] == ["event"] * len(task.journal) + ["reconnect"]
    assert lines[-2]["problem"]["path"] == "a\nb"
    assert lines[2]["progress"]["eta_high"] == 9.0


def test_text() -> None:
    assert [text.size(n) for n in (None, 0, 999, 1000, 1536, 1 << 20, 1073741823, 3 << 40)] == [
        "?", "0 B", "999 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "1.0 GiB", "3.0 TiB",
    ]  # fmt: skip
    assert [text.span(timedelta(seconds=s)) for s in (0, 7, 67, 3723)] == ["0:00", "0:07", "1:07", "1:02:03"]
    assert (text.count(1, "file"), text.count(1204, "file")) == ("1 file", "1,204 files")
    assert text.safe("a\x1b[0m\nb\u202e") == "a\\x1b[0m\\nb\\u202e"
    assert text.percent(1, 3) == "33.3 %"
    assert text.percent(1, 0) == "-"
