"""Credentials of a call show in no log, no error and no page token: protobuf's own text hides nothing."""

from __future__ import annotations

import ast
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import holdfast_server
from holdfast.v1 import (
    backup_service_pb2,
    backup_service_pb2_grpc,
    credentials_pb2,
    repository_pb2,
    repository_service_pb2,
    task_pb2,
)
from holdfast_server.auth import Authenticator
from holdfast_server.errors import InvalidArgument
from holdfast_server.rpc.interceptors import CallInterceptor, StreamPlaces
from holdfast_server.rpc.pages import cut_page, page_start
from holdfast_server.rpc.parse import parse_credentials, request_key
from holdfast_server.rpc.server import NotBuiltYet, build_server

CANARY = "AGE-SECRET-KEY-1CANARYCANARYCANARY"
PACKAGE = Path(holdfast_server.__file__).parent


def asking(**secret: str) -> backup_service_pb2.VerifyBackupRequest:
    credentials = credentials_pb2.Credentials(**secret)
    return backup_service_pb2.VerifyBackupRequest(backup_id="b", credentials=credentials)


def test_a_secret_is_taken_as_it_is() -> None:
    assert parse_credentials(backup_service_pb2.VerifyBackupRequest(backup_id="b")) is None
    credentials = parse_credentials(asking(age_identity=CANARY))
    assert credentials is not None
    assert credentials.age_identity == CANARY
    assert credentials.passphrase is None


@pytest.mark.parametrize(
    ("secret", "field"),
    [
        ({}, "credentials"),
        ({"age_identity": ""}, "credentials.age_identity"),
        ({"age_identity": CANARY * 2000}, "credentials.age_identity"),
    ],
)
def test_what_is_no_secret(secret: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_credentials(asking(**secret))
    assert [violation.field for violation in caught.value.violations] == [field]
    assert CANARY not in f"{caught.value} {caught.value.metadata} {caught.value.violations}"


@pytest.mark.parametrize("kind", ["passphrase", "private_key"])
@pytest.mark.parametrize("secret", [CANARY, ""])
def test_kinds_that_the_call_has_no_use_for_are_refused_by_name(kind: str, secret: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_credentials(asking(**{kind: secret}))
    assert [violation.field for violation in caught.value.violations] == [f"credentials.{kind}"]
    assert CANARY not in f"{caught.value} {caught.value.metadata}"
    assert parse_credentials(asking(**{kind: CANARY}), accepted=("passphrase", "private_key")) is not None


def test_the_fingerprint_of_a_request_knows_kinds_of_secrets_and_no_secret() -> None:
    def fingerprint(**key: Any) -> str:
        new = repository_pb2.NewKey(**key)
        request = repository_service_pb2.CreateRepositoryRequest(
            repository_id="r", keys=[new], request_id="00000000-0000-0000-0000-000000000001"
        )
        found = request_key(request, "CreateRepository", "admin", {})
        assert found is not None
        assert request.keys[0] == new, "the request itself stays as it is"
        return found.fingerprint

    first = fingerprint(passphrase=CANARY)
    assert first == fingerprint(passphrase="another")
    others = {fingerprint(private_key=CANARY), fingerprint(recovery={}), fingerprint(passphrase="x", display_name="n")}
    assert len(others | {first}) == 4


@pytest.mark.parametrize("secret", [CANARY, ""])
def test_a_call_that_opens_no_wallet_refuses_a_password_by_name(secret: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_credentials(asking(wallet_password=secret))
    assert [violation.field for violation in caught.value.violations] == ["credentials.wallet_password"]
    assert "it takes age_identity" in caught.value.message
    assert CANARY not in f"{caught.value} {caught.value.metadata} {caught.value.violations}"


def test_a_call_that_opens_a_wallet_takes_its_password() -> None:
    both = {"age_identity", "wallet_password"}
    credentials = parse_credentials(asking(wallet_password=CANARY), both)
    assert credentials is not None
    assert credentials.wallet_password == CANARY
    assert parse_credentials(asking(age_identity=CANARY), both) is not None
    for bad in ("", "x" * 1025, "é" * 513):
        with pytest.raises(InvalidArgument) as caught:
            parse_credentials(asking(wallet_password=bad), both)
        assert [violation.field for violation in caught.value.violations] == ["credentials.wallet_password"]
    assert parse_credentials(asking(wallet_password="é" * 512), both) is not None


def test_page_tokens_do_not_depend_on_the_secret() -> None:
    def request(token: str, secret: str) -> backup_service_pb2.ListBackupEntriesRequest:
        credentials = credentials_pb2.Credentials(passphrase=secret)
        return backup_service_pb2.ListBackupEntriesRequest(
            backup_id="b", page_size=1, page_token=token, credentials=credentials
        )

    rows, messages = ["x", "y"], [task_pb2.Task(), task_pb2.Task()]
    tokens = {cut_page(request("", secret), rows, messages, lambda row: [row])[1] for secret in ("one", "two")}
    assert len(tokens) == 1
    assert page_start(request(tokens.pop(), "three"), str) == ["x"]


class _Defective(backup_service_pb2_grpc.BackupServiceServicer):
    """Fails with the request at hand, before and after it has begun to answer."""

    def VerifyBackup(self, request: Any, context: grpc.ServicerContext) -> task_pb2.Task:
        secret = request.credentials.age_identity
        raise KeyError(len(secret), context.peer())

    def RunBackup(self, request: Any, context: grpc.ServicerContext) -> Iterator[task_pb2.TaskEvent]:
        credentials = asking(age_identity=CANARY)
        yield task_pb2.TaskEvent()
        raise ValueError(len(credentials.credentials.age_identity), request.name, context.peer())


@pytest.fixture
def channel() -> Iterator[grpc.Channel]:
    def register(server: grpc.Server) -> list[str]:
        backup_service_pb2_grpc.add_BackupServiceServicer_to_server(_Defective(), server)
        return ["holdfast.v1.BackupService"]

    interceptor = CallInterceptor(Authenticator("token"), StreamPlaces(4), open_reflection=False)
    edge = build_server(
        "127.0.0.1:0", interceptor, register, lambda served: NotBuiltYet([], served), threads=4, with_reflection=False
    )
    edge.start()
    with grpc.insecure_channel(edge.address) as made:
        yield made
    edge.stop(0).wait()


def refused(call: Callable[[], Any]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def test_a_defect_logs_its_place_and_not_the_request(channel: grpc.Channel, caplog: pytest.LogCaptureFixture) -> None:
    stub: Any = backup_service_pb2_grpc.BackupServiceStub(channel)
    metadata = (("authorization", "Bearer token"),)
    with caplog.at_level(logging.DEBUG):
        first = refused(lambda: stub.VerifyBackup(asking(age_identity=CANARY), metadata=metadata, timeout=60))
        run = backup_service_pb2.RunBackupRequest(name="n")
        second = refused(lambda: list(stub.RunBackup(run, metadata=metadata, timeout=60)))
    assert "KeyError" in caplog.text, "the log must say what failed"
    assert "ValueError" in caplog.text
    for error in (first, second):
        assert error.code() is grpc.StatusCode.INTERNAL
        assert CANARY not in f"{error.details()} {error.trailing_metadata()}"
    assert CANARY not in caplog.text


def test_what_is_no_request_at_all_is_not_logged(channel: grpc.Channel, caplog: pytest.LogCaptureFixture) -> None:
    broken = asking(age_identity=CANARY).SerializeToString().replace(CANARY[-2:].encode(), b"\xff\xfe")
    call = channel.unary_unary("/holdfast.v1.BackupService/VerifyBackup", lambda raw: raw, lambda raw: raw)
    with caplog.at_level(logging.DEBUG):
        error = refused(lambda: call(broken, metadata=(("authorization", "Bearer token"),), timeout=60))
    assert CANARY[:-2] not in f"{error.details()} {error.trailing_metadata()} {caplog.text}"


_PRINTERS = {"str", "repr", "format", "print", "MessageToJson", "MessageToString", "MessageToDict"}
#: This drops the credentials before anything is made of the dict.
_ALLOWED = {("rpc/pages.py", "MessageToDict")}


def _printed(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """(how, what) of every expression that is made into text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FormattedValue):
            yield "f-string", node.value
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
            yield from (("%", one) for one in (node.right.elts if isinstance(node.right, ast.Tuple) else [node.right]))
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            owner = getattr(getattr(node.func, "value", None), "id", "")
            if name in _PRINTERS or owner in ("_log", "logging"):
                yield from ((name, one) for one in node.args)


def _is_request(value: ast.expr) -> bool:
    name = value.attr if isinstance(value, ast.Attribute) else getattr(value, "id", "")
    return name in {"request", "credentials", "secret", "age_identity", "passphrase", "private_key", "password",
                    "wallet_password"}  # fmt: skip


def test_no_code_makes_text_of_a_request() -> None:
    found = {
        (path.relative_to(PACKAGE).as_posix(), how)
        for path in PACKAGE.rglob("*.py")
        for how, what in _printed(ast.parse(path.read_text()))
        if _is_request(what)
    }
    assert found == _ALLOWED
