"""The reader process: real ones, killed and replaced."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from holdfast_server.errors import (
    DataLoss,
    FieldViolation,
    HoldfastError,
    InvalidArgument,
    Reason,
    ResourceExhausted,
    Unavailable,
)
from holdfast_server.tasks.wallet_reader import ReaderDefect, WalletReader
from tests.harness import until
from tests.unit.tasks import reader_functions as functions

CANARY = "SECRETCANARY" * 3


@pytest.fixture
def reader() -> Iterator[WalletReader]:
    reader = WalletReader(threads=2, waiting=1)
    yield reader
    reader.close()


def test_a_call_runs_in_one_process_that_stays(reader: WalletReader) -> None:
    assert reader.pid is None, "no process before it is needed"
    pids = {reader.run(os.getpid) for _ in range(20)}
    assert pids == {reader.pid}
    assert os.getpid() not in pids


def test_large_arguments_and_results_travel(reader: WalletReader) -> None:
    content = os.urandom(3 << 20)
    assert reader.run(functions.echo, content) == content


def test_an_error_arrives_as_it_was_raised(reader: WalletReader) -> None:
    with pytest.raises(InvalidArgument) as caught:
        reader.run(functions.refuse_field, "abc")
    assert caught.value.reason is Reason.INVALID_FIELD
    assert caught.value.metadata == {"field": "page_token", "value": "abc"}
    assert caught.value.violations == (FieldViolation("page_token", "belongs to another wallet"),)
    with pytest.raises(DataLoss, match="coin is damaged") as damaged:
        reader.run(functions.refuse_damaged)
    assert (damaged.value.retry_after, damaged.value.metadata) == (2.5, {"path": "Bank/\\xff"})


@pytest.mark.parametrize("kind", [HoldfastError, *HoldfastError.__subclasses__()])
def test_every_error_can_be_pickled(kind: type[HoldfastError]) -> None:
    error = kind(Reason.INTERNAL, "text", metadata={"a": "b"}, violations=[FieldViolation("f", "d")], retry_after=1.5)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (again.reason, again.message, str(again)) == (error.reason, error.message, str(error))
    assert (again.metadata, again.violations, again.retry_after) == (error.metadata, error.violations, 1.5)


@pytest.mark.parametrize(("function", "kind"), [(functions.leave, "SystemExit"), (functions.unpicklable, "Error")])
def test_a_defect_is_told_and_the_process_goes_on(reader: WalletReader, function: object, kind: str) -> None:
    pid = reader.run(os.getpid)
    with pytest.raises(ReaderDefect, match=kind):
        reader.run(function)  # type: ignore[arg-type]
    assert reader.run(os.getpid) == pid


def test_a_defect_never_shows_what_the_function_was_given(reader: WalletReader) -> None:
    with pytest.raises(ReaderDefect) as caught:
        reader.run(functions.break_over, CANARY)
    assert "ValueError" in str(caught.value)
    assert "break_over" in str(caught.value)
    assert CANARY not in str(caught.value)


def test_secrets_travel_over_the_socket_alone(reader: WalletReader) -> None:
    command, environment, core, modules = reader.run(functions.told_and_seen, CANARY)
    assert CANARY.encode() not in command + environment
    assert b"--fd" in command
    assert b"MALLOC_TRIM_THRESHOLD_" in environment
    assert core == (0, 0)
    assert not modules & {"grpc", "google", "holdfast", "sqlalchemy", "dbos", "holdfast_server.catalog"}


def test_a_process_killed_in_a_call_is_replaced_and_the_call_repeated(reader: WalletReader, tmp_path: Path) -> None:
    started, release = tmp_path / "started", tmp_path / "release"
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(reader.run, functions.announce_and_wait, str(started), str(release))
        until(started.exists, "the call")
        first = reader.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        release.touch()
        second = call.result(30)
    assert second != first
    assert second == reader.pid
    until(lambda: not psutil.pid_exists(first), "the dead process being reaped")


def test_a_call_that_kills_twice_fails_and_the_next_one_works(reader: WalletReader, tmp_path: Path) -> None:
    assert reader.run(functions.kill_self_once, str(tmp_path / "marker")) == reader.pid
    with pytest.raises(Unavailable) as caught:
        reader.run(functions.kill_self)
    assert caught.value.reason is Reason.READER_FAILED
    assert reader.run(os.getpid) == reader.pid


def test_a_short_call_passes_a_long_one_and_too_many_are_refused(reader: WalletReader, tmp_path: Path) -> None:
    release = tmp_path / "release"
    with ThreadPoolExecutor(3) as pool:
        long = pool.submit(reader.run, functions.announce_and_wait, str(tmp_path / "1"), str(release))
        until((tmp_path / "1").exists, "the long call")
        assert reader.run(os.getpid) == reader.pid, "beside the long one"
        other = pool.submit(reader.run, functions.announce_and_wait, str(tmp_path / "2"), str(release))
        until((tmp_path / "2").exists, "the other long call")
        waiting = pool.submit(reader.run, os.getpid)
        until(lambda: reader._places._value == 0, "the third call waiting")
        with pytest.raises(ResourceExhausted) as caught:
            reader.run(os.getpid)
        assert caught.value.reason is Reason.READER_BUSY
        assert caught.value.retry_after
        assert not waiting.done()
        release.touch()
        assert {long.result(30), other.result(30), waiting.result(30)} == {reader.pid}


def test_a_waiting_call_that_nobody_wants_any_more_is_let_go(reader: WalletReader, tmp_path: Path) -> None:
    release = tmp_path / "release"
    with ThreadPoolExecutor(2) as pool:
        for number in ("1", "2"):
            pool.submit(reader.run, functions.announce_and_wait, str(tmp_path / number), str(release))
        until(lambda: (tmp_path / "1").exists() and (tmp_path / "2").exists(), "both threads being taken")
        with pytest.raises(ResourceExhausted, match="given up"):
            reader.run(os.getpid, wanted=lambda: False)
        release.touch()


def test_storage_that_does_not_answer_costs_one_process_and_no_thread(tmp_path: Path) -> None:
    reader = WalletReader(threads=1, patience=0.5)
    try:
        with pytest.raises(Unavailable) as caught:
            reader.run(functions.announce_and_wait, str(tmp_path / "started"), str(tmp_path / "never"))
        assert caught.value.reason is Reason.READER_FAILED
        assert until(lambda: _answers(reader), "the replacement")
    finally:
        reader.close()


def _answers(reader: WalletReader) -> int:
    # Patience is shorter here than a start may take on a busy machine.
    try:
        return reader.run(os.getpid)
    except Unavailable:
        return 0


def test_a_close_ends_the_process_and_what_waits_for_it(reader: WalletReader, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(reader.run, functions.announce_and_wait, str(tmp_path / "started"), str(tmp_path / "never"))
        until((tmp_path / "started").exists, "the call")
        pid = reader.pid
        assert pid is not None
        reader.close()
        with pytest.raises(Unavailable) as caught:
            call.result(30)
    assert caught.value.reason is Reason.SHUTTING_DOWN
    until(lambda: not psutil.pid_exists(pid), "the end of the process")
    with pytest.raises(Unavailable, match="shutting down"):
        reader.run(os.getpid)
    reader.close()


def test_it_outlives_the_thread_that_called_first(reader: WalletReader) -> None:
    pids: list[int] = []
    caller = threading.Thread(target=lambda: pids.append(reader.run(os.getpid)))
    caller.start()
    caller.join()
    assert reader.run(os.getpid) == pids[0]


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "in a call"])
def test_it_dies_with_the_edge(tmp_path: Path, busy: bool) -> None:
    script = (
        "import os, sys, threading\n"
        "from holdfast_server.tasks.wallet_reader import WalletReader\n"
        "from tests.unit.tasks.reader_functions import announce_and_wait\n"
        "reader = WalletReader()\n"
        "reader.run(os.getpid)\n"
        "if sys.argv[1]:\n"
        "    arguments = (announce_and_wait, sys.argv[1], sys.argv[1] + '.never')\n"
        "    threading.Thread(target=reader.run, args=arguments, daemon=True).start()\n"
        "print(reader.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    started = tmp_path / "started"
    edge = subprocess.Popen(
        [sys.executable, "-c", script, str(started) if busy else ""],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert edge.stdout is not None
        pid = int(edge.stdout.readline())
        if busy:
            until(started.exists, "the call")
        assert psutil.pid_exists(pid)
    finally:
        edge.kill()
        edge.communicate()
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie", "the reader's end")
