"""The sidecar says what docs/format.md lists, and nothing else; a wrong one is refused by what is wrong with it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_server.archive.sidecar import MAX_SIDECAR, Sidecar, parse_sidecar, sidecar_name
from holdfast_server.core.statistics import Statistics
from holdfast_server.errors import FailedPrecondition, Reason

ROOT = Path(__file__).parents[3]
SIDECAR = Sidecar(
    backup_id="5c1f0a52-0000-4000-8000-000000000001",
    source_id="wallet",
    source_kind="WALLET",
    archive_format="tar.gz",
    recipients=2,
    created_us=1_700_000_000_000_000,
    completed_us=1_700_000_001_250_001,
    size=12345,
    sha256="ab" * 32,
    counts=Statistics(files=3).manifest_totals(wallet=False)["counts"],
    complete=True,
    software="holdfast 1",
)


def test_round_trip() -> None:
    assert parse_sidecar(SIDECAR.encode()) == SIDECAR
    assert sidecar_name(b"x.zip.age") == b"x.zip.age.holdfast.json"


@given(st.integers(0, 4_000_000_000_000_000))
def test_any_time_survives(time: int) -> None:
    sidecar = dataclasses.replace(SIDECAR, created_us=time)
    assert parse_sidecar(sidecar.encode()).created_us == time


def test_the_documented_keys_are_the_sidecars() -> None:
    text = (ROOT / "docs/format.md").read_text()
    table = text[text.index("| key of a sidecar |") :].split("\n\n")[0]
    of_an_export = dataclasses.replace(SIDECAR, exported_from={"backup_id": SIDECAR.backup_id})
    assert parse_sidecar(of_an_export.encode()) == of_an_export
    values, exported = json.loads(SIDECAR.encode()), json.loads(of_an_export.encode())
    assert set(exported) - set(values) == {"exported_from"}
    assert set(values) - set(exported) == {"backup_id"}
    documented = {word for row in table.splitlines()[2:] for word in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert documented == set(values) | set(exported)
    for constant in ("format", "version", "sealing"):
        assert str(values[constant]) in table
    assert set(values["source"]) == {"source_id", "kind"}
    assert f"at most {MAX_SIDECAR:,} bytes" in re.sub(r"\s+", " ", text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "holdfast-manifest"}, "its format is not"),
        ({"version": 2}, "its version is not"),
        ({"version": True}, "its version is not"),
        ({"sealing": "gpg"}, "its sealing is not"),
        ({"source": None}, "its source is missing"),
        ({"source": {"kind": "WALLET"}}, "its source_id is missing"),
        ({"backup_id": 7}, "its backup_id is missing"),
        ({"size": -1}, "its size is no number"),
        ({"size": 1 << 63}, "its size is no number"),
        ({"size": True}, "its size is no number"),
        ({"recipients": "2"}, "its recipients is no number"),
        ({"counts": {"files": 1.5}}, "its files is no number"),
        ({"complete": 1}, "its complete is missing"),
        ({"sha256": "AB" * 32}, "its sha256 is no SHA-256"),
        ({"create_time": "yesterday"}, "its create_time is no time"),
        ({"create_time": "2026-11-20T10:00:00"}, "its create_time is no time"),
    ],
)
def test_what_is_wrong_is_said(change: dict[str, Any], message: str) -> None:
    data = json.dumps({**json.loads(SIDECAR.encode()), **change}).encode()
    with pytest.raises(FailedPrecondition, match=message) as caught:
        parse_sidecar(data)
    assert caught.value.reason is Reason.ARCHIVE_INVALID


def test_unknown_keys_are_ignored() -> None:
    assert parse_sidecar(json.dumps({**json.loads(SIDECAR.encode()), "new": [1]}).encode()) == SIDECAR


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"{", b"[" * 70_000, SIDECAR.encode() + b" " * MAX_SIDECAR])
def test_what_is_no_sidecar(data: bytes) -> None:
    with pytest.raises(FailedPrecondition, match="no JSON object"):
        parse_sidecar(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_taken_or_refused(data: bytes) -> None:
    with pytest.raises(FailedPrecondition):
        parse_sidecar(data)
