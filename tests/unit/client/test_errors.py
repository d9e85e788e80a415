"""The client's error tree is the mirror of the server's, and both ways over a real call."""

from __future__ import annotations

import socket

import pytest
from fake_service import FakeServer, FakeService

import holdfast
from holdfast import errors
from holdfast_server import errors as server_errors
from holdfast_server.rpc.errors import STATUS_CODES


def test_classes_are_the_servers_table() -> None:
    ours = {cls.__name__: code for code, cls in errors.CLASSES.items()}
    theirs = {cls.__name__: code.name for cls, code in STATUS_CODES.items()}
    # A deadline is seen by the caller's side alone.
    assert ours == theirs | {"DeadlineExceeded": "DEADLINE_EXCEEDED"}


def test_reasons_are_the_servers() -> None:
    assert {reason.value for reason in errors.Reason} == {reason.value for reason in server_errors.Reason}


@pytest.mark.parametrize("cls", list(STATUS_CODES))
def test_an_error_survives_the_wire(
    cls: type[server_errors.HoldfastError], service: FakeService, client: holdfast.Client
) -> None:
    reason = server_errors.Reason.DISK_FULL
    service.failures = [
        cls(
            reason,
            "the disk is füll",
            metadata={"folder": "/srv"},
            violations=[server_errors.FieldViolation("archive.folder", "is bad")],
            retry_after=0.25,
        )
    ]
    with pytest.raises(errors.HoldfastError) as caught:
        client.sources.get("x")
    error = caught.value
    assert type(error).__name__ == cls.__name__
    assert error.code == STATUS_CODES[cls].name
    assert error.reason == errors.Reason.DISK_FULL
    assert (error.message, str(error)) == ("the disk is füll", "the disk is füll")
    assert error.remedy == server_errors.REMEDIES[reason]
    assert error.metadata == {"folder": "/srv"}
    assert error.violations == (errors.FieldViolation("archive.folder", "is bad"),)
    assert error.retry_after == 0.25


def test_an_unknown_reason_survives() -> None:
    from google.protobuf import any_pb2
    from google.rpc import error_details_pb2

    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason="OF_TOMORROW", domain="holdfast.dev", metadata={"remedy": "wait"}))
    error = errors.from_status("FAILED_PRECONDITION", "no", [detail])
    assert (type(error), error.reason, error.remedy) == (errors.FailedPrecondition, "OF_TOMORROW", "wait")
    assert type(errors.from_status("OUT_OF_RANGE", "no", [detail])) is errors.UnknownStatus


def test_no_server_is_a_connection_failed_with_a_remedy() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        holdfast.connect(f"127.0.0.1:{port}", token="x", connect_timeout=0.3) as client,
        pytest.raises(holdfast.ConnectionFailed) as caught,
    ):
        client.sources.get("default")
    assert f"127.0.0.1:{port}" in caught.value.message
    assert "holdfast-server serve" in caught.value.remedy


def test_bad_credentials_say_why_there_is_no_token(server: FakeServer, tmp_path: object) -> None:
    with (
        holdfast.connect(server.address, data_dir=str(tmp_path)) as client,
        pytest.raises(holdfast.Unauthenticated, match="no token was given") as caught,
    ):
        client.sources.get("default")
    assert caught.value.reason == errors.Reason.BAD_CREDENTIALS


def test_everything_exported_exists_and_errors_derive_from_one() -> None:
    for name in holdfast.__all__:
        assert hasattr(holdfast, name), name
    for name in errors.__all__:
        value = getattr(errors, name)
        if isinstance(value, type) and issubclass(value, Exception):
            assert issubclass(value, holdfast.HoldfastError)
            assert f"─ {name} " in (errors.__doc__ or "") or value is holdfast.HoldfastError, name
