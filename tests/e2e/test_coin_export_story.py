"""Exports of coins through a running server: by gRPC, the Python client and the command line."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from PIL import Image

import holdfast
from holdfast.cli import main
from holdfast.v1 import export_pb2, export_service_pb2, source_pb2, source_service_pb2, task_pb2, task_service_pb2
from holdfast_server.wallets.amounts import COIN
from tests.coin_wallets import find_coins, make_wallet
from tests.harness import PATIENCE, SequenceRule, Server, failure_of, sha256_of, snapshot, until

BIN, PNG = export_pb2.COIN_FILE_FORMAT_BIN, export_pb2.COIN_FILE_FORMAT_PNG
COMPLETED, FAILED = task_pb2.TASK_STATE_COMPLETED, task_pb2.TASK_STATE_FAILED


class Place:
    """A wallet of 3 x 10 and 5 x 1, and 2 x 0.1 in Fracked, and a folder for exports."""

    def __init__(self, server: Server, base: Path) -> None:
        self.server, self.base = server, base
        self.wallet, self.out = base / "wallet", base / "out"
        self.coins = make_wallet(self.wallet, [10 * COIN] * 3 + [COIN] * 5, [COIN // 10] * 2)
        self.out.mkdir()
        self.source_id = f"w-{uuid.uuid4().hex[:12]}"
        self.registered: list[str] = []
        self.register(self.wallet, self.source_id)

    def register(self, path: Path, source_id: str, kind: int = source_pb2.SOURCE_KIND_WALLET) -> None:
        self.server.register(path, source_id, kind=kind)
        self.registered.append(source_id)

    def request(self, **values: Any) -> export_service_pb2.ExportCoinsRequest:
        fields = {"source_id": self.source_id, "folder": str(self.out), "format": BIN, **values}
        return export_service_pb2.ExportCoinsRequest(**fields)  # type: ignore[arg-type]

    def start(self, **values: Any) -> str:
        return str(self.server.exports.ExportCoins(self.request(**values), timeout=PATIENCE).task_id)

    def assert_nothing_lost(self) -> None:
        find_coins(self.wallet, self.out).assert_none_lost_or_doubled(self.coins)


@pytest.fixture
def place(shared_server: Server, tmp_path: Path) -> Iterator[Place]:
    made = Place(shared_server, tmp_path)
    yield made
    for source_id in made.registered:  # others ask for all wallets of this server
        shared_server.sources.UnregisterSource(source_service_pb2.UnregisterSourceRequest(source_id=source_id))


def test_run_export_coins_streams_to_the_end_and_is_idempotent(place: Place) -> None:
    server, request_id = place.server, str(uuid.uuid4())
    fields = {"source_id": place.source_id, "folder": str(place.out), "format": BIN, "amount": "12.1", "tag": "rent"}
    run = export_service_pb2.RunExportCoinsRequest(**fields, request_id=request_id)  # type: ignore[arg-type]
    ids = []
    for _ in range(2):
        rule, stream = SequenceRule(), server.exports.RunExportCoins(run, timeout=PATIENCE)
        for event in stream:
            rule.take(event)
        assert dict(stream.initial_metadata())["holdfast-task-id"] == rule.last.task_id
        ids.append(rule.last.task_id)
    assert ids[0] == ids[1]
    task = rule.last.task
    assert task.state == COMPLETED, task
    result = task.export_coins_result
    assert (result.amount, result.coins, result.coins_fracked, result.file_count) == ("12.1", 4, 1, 1)
    (file,) = result.files
    assert file.path == str(place.out / "12.1.CloudCoin.rent.bin")
    assert file.sha256 == sha256_of(Path(file.path))
    assert (file.coins, file.amount, file.generation) == (4, "12.1", 3)
    assert [(one.denomination, one.coins) for one in result.denominations] == [("10", 1), ("1", 2), ("0.1", 1)]
    assert (place.wallet / result.receipt_path).is_file()
    place.assert_nothing_lost()
    with pytest.raises(grpc.RpcError) as caught:
        place.start(amount="1", request_id=request_id)
    assert failure_of(caught.value).name == "ALREADY_EXISTS/REQUEST_ID_REUSED"


def test_refusals_change_nothing(place: Place) -> None:
    before = snapshot(place.wallet)
    directory = place.base / "directory"
    directory.mkdir()
    place.register(directory, "plain-" + place.source_id, source_pb2.SOURCE_KIND_DIRECTORY)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"amount": "99"}, "FAILED_PRECONDITION/INSUFFICIENT_BALANCE"),
        ({"amount": "6"}, "FAILED_PRECONDITION/NO_EXACT_CHANGE"),
        ({"amount": "1e1"}, "INVALID_ARGUMENT/INVALID_FIELD"),
        ({"amount": "1", "format": 0}, "INVALID_ARGUMENT/INVALID_FIELD"),
        ({"amount": "1", "folder": str(place.wallet / "Bank")}, "INVALID_ARGUMENT/INVALID_FIELD"),
        ({"amount": "1", "folder": str(place.base / "none")}, "FAILED_PRECONDITION/FOLDER_NOT_FOUND"),
        ({"amount": "1", "folder": str(place.server.data_dir)}, "FAILED_PRECONDITION/FOLDER_INSIDE_DATA_DIR"),
        ({"amount": "1", "age_recipients": ["age1nonsense"]}, "INVALID_ARGUMENT/INVALID_FIELD"),
        ({"amount": "1", "png_template": "/x.png"}, "INVALID_ARGUMENT/INVALID_FIELD"),
        ({"amount": "1", "format": PNG, "png_template": "/no/x.png"}, "FAILED_PRECONDITION/FILE_NOT_FOUND"),
        (
            {"amount": "1", "format": PNG, "png_template": str(place.wallet / "config.toml")},
            "INVALID_ARGUMENT/INVALID_FIELD",
        ),
        ({"amount": "1", "source_id": "nobody"}, "NOT_FOUND/SOURCE_NOT_FOUND"),
        ({"amount": "1", "source_id": "plain-" + place.source_id}, "FAILED_PRECONDITION/NOT_A_WALLET"),
    ]
    for values, name in cases:
        with pytest.raises(grpc.RpcError) as caught:
            place.start(**values)
        assert failure_of(caught.value).name == name, values
    with pytest.raises(grpc.RpcError) as caught:
        place.start(amount="6")
    told = failure_of(caught.value).metadata
    assert (told["nearest_lower"], told["nearest_higher"]) == ("5.2", "10")
    assert snapshot(place.wallet) == before
    assert os.listdir(place.out) == []


def test_exports_and_backups_of_one_wallet_take_turns(place: Place) -> None:
    (place.base / "archives").mkdir()
    tasks = []
    for _ in range(3):
        tasks.append(place.start(amount="1"))
        tasks.append(place.server.create(place.source_id, place.base / "archives").task_id)
    assert [place.server.ended(task_id).state for task_id in tasks] == [COMPLETED] * 6
    place.assert_nothing_lost()
    assert len(os.listdir(place.out)) == 3


def test_the_client_and_a_picture(place: Place) -> None:
    Image.new("RGB", (600, 300), "white").save(place.base / "template.png")
    with holdfast.connect(place.server.address, token=place.server.token) as client:
        handle = client.exports.coins(
            place.source_id, "11", folder=place.out, format="png", tag="t", png_template=place.base / "template.png"
        )
        result = handle.result(PATIENCE)
        assert (str(result.amount), result.coins) == ("11", 2)
        assert result.files[0].generation is holdfast.CoinGeneration.V3
        with pytest.raises(holdfast.FailedPrecondition) as caught:
            handle.resume()
        assert caught.value.reason == holdfast.Reason.TASK_ENDED
        with pytest.raises(TypeError):
            client.exports.coins(place.source_id, 0.1, folder=place.out, format="bin")  # type: ignore[arg-type]
    place.assert_nothing_lost()


def test_the_command_line_and_resuming(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data-dir", str(place.server.data_dir), "--no-progress"]
    words = ["wallet", "export", place.source_id, "12", "--to", str(place.out), "--format", "stack"]
    before = snapshot(place.wallet)
    assert main([*options, *words, "--dry-run"]) == 0
    assert "would export 12" in capsys.readouterr().out
    assert snapshot(place.wallet) == before
    assert main([*options, *words, "--tag", "cli"]) == 0
    told = capsys.readouterr().out
    assert str(place.out / "12.CloudCoin.cli.stack") in told
    assert "1 x 10" in told
    assert main([*options, "wallet", "export", place.source_id, "7", "--to", str(place.out), "--format", "bin"]) == 1
    assert "NO_EXACT_CHANGE" in capsys.readouterr().err
    place.assert_nothing_lost()


def test_a_destination_that_goes_away_under_an_export(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large, out, aside = tmp_path / "large", tmp_path / "usb", tmp_path / "aside"
    coins = make_wallet(large, [COIN] * 1100, seed=9)
    out.mkdir()
    source_id = f"large-{place.source_id}"
    place.register(large, source_id)
    task_id = place.start(source_id=source_id, amount="1100", folder=str(out), format=PNG)
    until(lambda: os.listdir(out), "the first partial", pause=0.001)
    out.rename(aside)
    task = place.server.ended(task_id)
    assert (task.state, task.error.reason) == (FAILED, "EXPORT_UNPUBLISHED"), task
    find_coins(large, aside).assert_none_lost_or_doubled(coins, reserved=True)
    options = ["--data-dir", str(place.server.data_dir), "--no-progress"]
    assert main([*options, "task", "resume", task_id]) == 1
    assert f"task resume {task_id}" in capsys.readouterr().err
    aside.rename(out)
    rule = SequenceRule()
    request = task_service_pb2.ResumeTaskRequest(task_id=task_id)
    assert place.server.tasks.ResumeTask(request, timeout=PATIENCE).attempt == 3
    place.server.watch(task_id, rule=rule)
    assert rule.last.task.state == COMPLETED, rule.last.task
    assert len(rule.last.task.export_coins_result.files) == 2
    find_coins(large, out).assert_none_lost_or_doubled(coins)
