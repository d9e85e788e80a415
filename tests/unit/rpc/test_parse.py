"""From requests to what the engine takes."""

from __future__ import annotations

import uuid

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from holdfast.v1 import backup_pb2, backup_service_pb2, restore_service_pb2, source_pb2, task_pb2, task_service_pb2
from holdfast_server.errors import InvalidArgument, Unimplemented
from holdfast_server.rpc.interceptors import refuse_unknown_fields
from holdfast_server.rpc.pages import cut_page, page_limit, page_start
from holdfast_server.rpc.parse import (
    enum_name,
    parse_path,
    parse_time,
    refuse_unbuilt,
    request_key,
)
from holdfast_server.storage.names import escape


@given(st.binary(min_size=0, max_size=60).filter(lambda name: b"\0" not in name))
def test_every_path_that_the_service_shows_can_be_given_back(name: bytes) -> None:
    assert parse_path(escape(b"/" + name), "path") == b"/" + name


@pytest.mark.parametrize("text", ["", "relative", "./x", "\\x00", "/a\\x00b", "/a\0b"])
def test_paths_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_path(text, "the.field")
    assert caught.value.violations[0].field == "the.field"


def test_enums() -> None:
    assert enum_name(backup_pb2.ArchiveFormat, 2, "f") == "TAR_GZ"
    assert enum_name(source_pb2.SourceKind, 0, "f", default="WALLET") == "WALLET"
    with pytest.raises(InvalidArgument, match="ZIP, TAR_GZ, TAR_ZST"):
        enum_name(backup_pb2.ArchiveFormat, 0, "f")
    for value in (99, -1, 2**31 - 1):
        with pytest.raises(InvalidArgument, match=str(value)):
            enum_name(backup_pb2.ArchiveFormat, value, "f", default="ZIP")


def test_page_sizes() -> None:
    assert [page_limit(size) for size in (0, 1, 999, 1000, 1001, 2**31 - 1)] == [50, 1, 999, 1000, 1000, 1000]
    with pytest.raises(InvalidArgument):
        page_limit(-1)


@given(st.integers(-(2**63) + 1, 2**63 - 1), st.text())
def test_page_tokens_come_back(number: int, text: str) -> None:
    request = task_service_pb2.ListTasksRequest(page_size=1)
    messages = [task_pb2.Task(), task_pb2.Task()]
    page, token = cut_page(request, [0, 1], messages, lambda _: [number, text])
    assert len(page) == 1
    again = task_service_pb2.ListTasksRequest(page_size=9, page_token=token)
    assert page_start(again, int, str) == [number, text]
    other = task_service_pb2.ListTasksRequest(source_id="x", page_token=token)
    with pytest.raises(InvalidArgument, match="other filters"):
        page_start(other, int, str)
    with pytest.raises(InvalidArgument):
        page_start(again, str, int)
    foreign = backup_service_pb2.ListBackupsRequest(page_token=token)
    with pytest.raises(InvalidArgument):
        page_start(foreign, int, str)


def test_a_page_ends_early_at_a_mebibyte_and_holds_at_least_one_row() -> None:
    request = task_service_pb2.ListTasksRequest(page_size=10)
    large = task_pb2.Task(message="x" * 600_000)
    huge = task_pb2.Task(message="x" * (3 << 20))
    page, token = cut_page(request, [1, 2, 3], [large, large, large], lambda row: [row])
    assert len(page) == 1
    again = task_service_pb2.ListTasksRequest(page_size=10, page_token=token)
    assert page_start(again, int) == [1]
    page, token = cut_page(request, [1, 2], [huge, huge], lambda row: [row])
    assert len(page) == 1
    assert token
    page, token = cut_page(request, [1], [huge], lambda row: [row])
    assert (len(page), token) == (1, "")
    assert cut_page(request, [], [], lambda row: [row]) == ([], "")


@given(st.text(max_size=80))
def test_no_token_breaks_anything(token: str) -> None:
    request = task_service_pb2.ListTasksRequest(page_token=token)
    if not token:
        assert page_start(request, int, str) is None
        return
    with pytest.raises(InvalidArgument):
        page_start(request, int, str)


def test_times() -> None:
    assert parse_time(Timestamp(seconds=1, nanos=1_999), "t") == 1_000_001
    for seconds, nanos in ((2**62, 0), (0, -1), (0, 10**9), (253_402_300_800, 0), (-62_135_596_801, 0)):
        with pytest.raises(InvalidArgument):
            parse_time(Timestamp(seconds=seconds, nanos=nanos), "t")


def order(**values: object) -> backup_service_pb2.CreateBackupRequest:
    request = backup_service_pb2.CreateBackupRequest(source_ids=["a"], request_id=str(uuid.UUID(int=1)))
    request.archive.folder = "/x"
    for name, value in values.items():
        setattr(request, name, value)
    return request


def test_fingerprints_follow_the_content_and_not_the_id() -> None:
    def print_of(request: object, **defaults: str) -> str:
        key = request_key(request, "CreateBackup", "admin", defaults)
        assert key is not None
        return key.fingerprint

    base = print_of(order())
    assert print_of(order(request_id=str(uuid.UUID(int=2)))) == base
    assert print_of(order(dry_run=False)) == base
    assert print_of(order(dry_run=True)) != base
    assert print_of(order(name="x")) != base
    assert print_of(order(on_source_error=2), on_source_error="WARN") == print_of(order(), on_source_error="WARN")
    run = backup_service_pb2.RunBackupRequest.FromString(order().SerializeToString())
    assert print_of(run) == base, "RunBackup reattaches to what CreateBackup made"
    restore = restore_service_pb2.RestoreBackupRequest(backup_id="b", request_id=str(uuid.UUID(int=1)))
    plain = print_of(restore)
    restore.credentials.passphrase = "secret"
    assert print_of(restore) == plain, "a fingerprint must not depend on a secret"


def test_request_ids_are_uuids() -> None:
    assert request_key(backup_service_pb2.CreateBackupRequest(), "m", "p", {}) is None
    upper = request_key(order(request_id=str(uuid.UUID(int=2**100)).upper()), "m", "p", {})
    assert upper is not None
    assert upper.request_id == str(uuid.UUID(int=2**100))
    for text in (
        "",
        "x",
        "0" * 32,
        "{00000000-0000-0000-0000-000000000001}",
        "urn:uuid:00000000-0000-0000-0000-000000000001",
    ):
        with pytest.raises(InvalidArgument):
            request_key(order(request_id=text), "m", "p", {})


def test_fields_not_built_are_refused_at_any_depth() -> None:
    request = order()
    refuse_unbuilt(request, "repository", "backup_id", "archive.age_recipients")
    request.archive.age_recipients.append("age1")
    with pytest.raises(Unimplemented, match=r"archive\.age_recipients"):
        refuse_unbuilt(request, "archive.age_recipients")
    request.backup_id = ""
    with pytest.raises(Unimplemented, match="backup_id"):
        refuse_unbuilt(request, "backup_id")


def test_unknown_fields_are_found_at_any_depth() -> None:
    refuse_unknown_fields(order())
    raw = b"\xfa\x7f\x01x"
    with pytest.raises(InvalidArgument, match="#2047"):
        refuse_unknown_fields(backup_service_pb2.CreateBackupRequest.FromString(order().SerializeToString() + raw))
    nested = order()
    nested.archive.MergeFromString(raw)
    with pytest.raises(InvalidArgument, match=r"archive\.#2047"):
        refuse_unknown_fields(nested)
