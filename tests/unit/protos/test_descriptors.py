"""The API as a whole: names, comments, secrets, and stubs that belong to the protos."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor, ServiceDescriptor

PROTOS = Path(__file__).parents[3] / "protos"
SOURCES = sorted(PROTOS.glob("holdfast/v1/*.proto"))
API = {
    "SourceService": "RegisterSource GetSource ListSources UpdateSource UnregisterSource",
    "WalletService": "GetBalance ListCoins UnlockWallet LockWallet ImportCoins",
    "BackupService": "CreateBackup RunBackup GetBackup ListBackups UpdateBackup DeleteBackup UndeleteBackup "
    "VerifyBackup ListBackupEntries FindEntries DiffBackups CreateDownloadToken RevokeDownloadToken DownloadBackup",
    "ExportService": "ExportCoins RunExportCoins ExportBackup RunExportBackup",
    "RestoreService": "RestoreBackup RunRestore RestoreArchive ListRollbacks RollbackRestore DeleteRollback",
    "TaskService": "GetTask ListTasks ListTaskProblems WatchTask WatchTasks CancelTask PauseTask ResumeTask "
    "StreamTaskLog DownloadTaskLog",
    "RepositoryService": "CreateRepository GetRepository ListRepositories UnlockRepository LockRepository "
    "PruneRepository CompactRepository CheckRepository RepairRepository AddKey RemoveKey RotateKey",
    "ScheduleService": "CreateSchedule GetSchedule ListSchedules UpdateSchedule DeleteSchedule RunSchedule",
    "AccessService": "CreateToken ListTokens RevokeToken GrantRole RevokeRole ListAuditEvents",
}
#: A streaming call and the unary call whose request it repeats field by field.
RUNS = {
    "RunBackupRequest": "CreateBackupRequest",
    "RunExportCoinsRequest": "ExportCoinsRequest",
    "RunExportBackupRequest": "ExportBackupRequest",
    "RunRestoreRequest": "RestoreBackupRequest",
}
SECRETS = {
    "passphrase",
    "private_key",
    "age_identity",
    "wallet_password",
    "password",
    "secret",
    "recovery_key",
    "token",
    "download_uri",
}


def load(path: Path) -> FileDescriptor:
    return importlib.import_module(f"holdfast.v1.{path.stem}_pb2").DESCRIPTOR


FILES = [load(path) for path in SOURCES]


def messages_of(parent: FileDescriptor | Descriptor) -> Iterator[Descriptor]:
    own = parent.message_types_by_name.values() if isinstance(parent, FileDescriptor) else parent.nested_types
    for message in own:
        if not message.GetOptions().map_entry:
            yield message
            yield from messages_of(message)


MESSAGES = [message for file in FILES for message in messages_of(file)]
ENUMS: list[EnumDescriptor] = [enum for holder in (*FILES, *MESSAGES) for enum in holder.enum_types_by_name.values()]
SERVICES: list[ServiceDescriptor] = [service for file in FILES for service in file.services_by_name.values()]
FIELDS: list[FieldDescriptor] = [field for message in MESSAGES for field in message.fields]

DECLARATIONS = (
    re.compile(r"^(?:message|enum|service|oneof|rpc)\s+(?P<name>\w+)"),
    re.compile(r"^(?:optional |repeated )?(?:map<[^>]+>|[A-Za-z][\w.]*)\s+(?P<name>\w+)\s*=\s*\d+"),  # a field
    re.compile(r"^(?P<name>[A-Z][A-Z0-9_]*)\s*=\s*\d+"),  # an enum value
)
PLAIN = re.compile(r"^(?:syntax|package|import|option)\b|^[}\])]")


def declarations(text: str) -> Iterator[tuple[int, str, bool]]:
    """Line number, name and whether it has a comment, of each thing declared in a .proto file, one per line."""
    before = ""
    for number, line in enumerate(text.splitlines(), 1):
        code, _, trailing = (part.strip() for part in line.partition("//"))
        found = next((match for pattern in DECLARATIONS if (match := pattern.match(code))), None)
        if code and not PLAIN.match(code):
            assert found, f"line {number} is not understood: {line!r}"
            yield number, found["name"], bool(trailing) or bool(re.match(r"//\s*\S", before))
        before = line.strip()


def test_every_file_of_the_api_is_walked() -> None:
    assert len(SOURCES) >= 20
    assert len(MESSAGES) > 150
    assert {file.name for file in FILES} == {str(path.relative_to(PROTOS)) for path in SOURCES}
    assert {file.package for file in FILES} == {"holdfast.v1"}


def test_services_and_calls_are_those_of_the_contract() -> None:
    assert {service.name: set(service.methods_by_name) for service in SERVICES} == {
        name: set(calls.split()) for name, calls in API.items()
    }


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_service_is_named_service_and_has_stubs(service: ServiceDescriptor) -> None:
    assert service.name.endswith("Service")
    module = importlib.import_module(service.file.name.removesuffix(".proto").replace("/", ".") + "_pb2_grpc")
    assert hasattr(module, f"{service.name}Stub")
    assert set(service.methods_by_name) <= set(vars(getattr(module, f"{service.name}Servicer")))


@pytest.mark.parametrize("enum", ENUMS, ids=lambda enum: enum.name)
def test_enum_values_carry_the_type_prefix_and_start_unspecified(enum: EnumDescriptor) -> None:
    prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum.name).upper()
    assert enum.values_by_number[0].name == f"{prefix}_UNSPECIFIED"
    assert [value.name for value in enum.values if not value.name.startswith(f"{prefix}_")] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_everything_declared_has_a_comment(path: Path) -> None:
    assert [
        f"{path.name}:{number} {name}" for number, name, commented in declarations(path.read_text()) if not commented
    ] == []


@pytest.mark.parametrize(
    ("path", "file"), list(zip(SOURCES, FILES, strict=True)), ids=lambda item: getattr(item, "stem", "")
)
def test_the_text_holds_exactly_what_the_stubs_hold(path: Path, file: FileDescriptor) -> None:
    messages = list(messages_of(file))
    enums = [enum for holder in (file, *messages) for enum in holder.enum_types_by_name.values()]
    expected = [
        *(message.name for message in messages),
        *(field.name for message in messages for field in message.fields),
        *(oneof.name for message in messages for oneof in message.oneofs if not oneof.name.startswith("_")),
        *(enum.name for enum in enums),
        *(value.name for enum in enums for value in enum.values),
        *(service.name for service in file.services_by_name.values()),
        *(method.name for service in file.services_by_name.values() for method in service.methods),
    ]
    assert sorted(name for _, name, _ in declarations(path.read_text())) == sorted(expected)


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("message A {\n  // Size in bytes.\n  uint64 size = 1;\n}", ["A"]),
        ("// A.\nmessage A {\n  uint64 size = 1;\n}", ["size"]),
        ("// A.\nmessage A {\n  //\n  map<string, string> size = 1;\n}", ["size"]),
        ("// A.\nmessage A {\n\n  uint64 size = 1; // Size in bytes.\n}", []),
        ("// E.\nenum E {\n  // None.\n  E_UNSPECIFIED = 0;\n  E_ONE = 1;\n}", ["E_ONE"]),
        ("// S.\nservice S {\n  rpc Get(GetRequest) returns (A) {\n    option deprecated = true;\n  }\n}", ["Get"]),
    ],
)
def test_a_missing_comment_is_found(text: str, missing: list[str]) -> None:
    assert [name for _, name, commented in declarations(text) if not commented] == missing


@pytest.mark.parametrize(("run", "create"), RUNS.items())
def test_a_run_takes_the_same_request_as_its_unary_call(run: str, create: str) -> None:
    def shape(name: str) -> list[tuple[object, ...]]:
        (message,) = (message for message in MESSAGES if message.name == name)
        return [
            (
                field.name,
                field.number,
                field.type,
                field.is_repeated,
                field.has_presence,
                getattr(field.message_type or field.enum_type, "full_name", None),
                getattr(field.containing_oneof, "name", None),
            )
            for field in message.fields
        ]

    assert shape(run) == shape(create) != []


def test_secrets_are_redacted_and_nothing_else_is() -> None:
    secrets = {field.full_name for field in FIELDS if field.name in SECRETS and not field.message_type}
    assert {field.full_name for field in FIELDS if field.GetOptions().debug_redact} == secrets


def test_a_call_that_answers_with_a_task_can_be_repeated_safely() -> None:
    steering = {"GetTask", "CancelTask", "PauseTask", "ResumeTask"}  # idempotent by themselves
    starting = [
        method
        for service in SERVICES
        for method in service.methods
        if method.name not in steering
        and (method.output_type.name == "Task" or method.name.startswith(("Create", "Run")))
    ]
    assert len(starting) > 15
    for method in starting:
        assert method.input_type.fields_by_name["request_id"].has_presence, method.full_name


def test_lists_have_pages() -> None:
    listing = [
        method for service in SERVICES for method in service.methods if method.name.startswith(("List", "Find", "Diff"))
    ]
    for method in listing:
        assert {"page_size", "page_token"} <= set(method.input_type.fields_by_name), method.full_name
        assert "next_page_token" in method.output_type.fields_by_name, method.full_name


def test_only_well_known_types_are_imported() -> None:
    imported = {dependency.name for file in FILES for dependency in file.dependencies}
    assert {name for name in imported if not name.startswith(("holdfast/v1/", "google/protobuf/"))} == set()
