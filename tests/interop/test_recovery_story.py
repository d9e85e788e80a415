"""docs/recovery.md: its commands run as they stand, and every byte comes back."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.v1 import source_pb2, wallet_service_pb2
from tests.harness import PATIENCE, REPOSITORY, Server, make_tree, snapshot
from tests.restored_wallets import PASSWORD, make_wallet

STORY = REPOSITORY / "docs" / "recovery.md"
TOOLS = ("age", "age-keygen", "tar", "sha256sum", "sed")


def commands(heading: str, text: str) -> str:
    """The shell blocks below one heading."""
    section = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return "\n".join(re.findall(r"^```sh\n(.*?)^```$", section, re.DOTALL | re.MULTILINE))


def run(script: str, folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", "-e", "-u", "-o", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
def test_a_wallet_comes_back_from_its_archive_and_its_password(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    missing = [tool for tool in ("unzip", "sha256sum") if shutil.which(tool, path=path) is None]
    if missing:
        pytest.skip(f"not installed here: {', '.join(missing)}")
    wallet, desk = make_wallet(tmp_path / "wallet"), tmp_path / "desk"
    desk.mkdir()
    with Server(tmp_path / "server") as server:
        server.register(wallet, "wallet", kind=source_pb2.SOURCE_KIND_WALLET)
        unlock = wallet_service_pb2.UnlockWalletRequest(source_id="wallet", password=PASSWORD)
        server.wallets.UnlockWallet(unlock, timeout=PATIENCE)
        made = server.backup("wallet", desk).backup_result
    assert made.files_reencrypted > 0
    os.rename(made.output_files[0], desk / "wallet.zip")
    shutil.rmtree(tmp_path / "server")
    before = {str(file.relative_to(wallet)): file.read_bytes() for file in wallet.rglob("*") if file.is_file()}
    shutil.rmtree(wallet)
    (desk / "password.txt").write_text(PASSWORD + "\n")

    run(commands("A wallet's coins", STORY.read_text()), desk, {"PATH": path, "HOME": str(tmp_path)})

    back = desk / "wallet"
    assert {str(file.relative_to(back)): file.read_bytes() for file in back.rglob("*") if file.is_file()} == before


def test_the_server_is_lost_and_the_archive_kept(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    missing = [tool for tool in TOOLS if shutil.which(tool, path=path) is None]
    if missing:
        pytest.skip(f"not installed here: {', '.join(missing)}")
    text = STORY.read_text()
    photos, desk, base = tmp_path / "photos", tmp_path / "desk", tmp_path / "server"
    desk.mkdir()
    make_tree(photos, seed=5)
    with Server(base) as server:
        environment = {"PATH": path, "HOME": str(tmp_path), "PHOTOS": str(photos)}
        environment["HOLDFAST_PATHS_DATA_DIR"] = str(server.data_dir)
        run(commands("While there is a server", text), desk, environment)
    shutil.rmtree(base)
    before = snapshot(photos)
    shutil.rmtree(photos)
    vault = sorted(file.name for file in (desk / "vault").iterdir())
    assert [name.partition("-sealed-")[0] for name in vault] == ["photos", "photos"]

    run(commands("After the server is gone", text), desk, {"PATH": path, "HOME": str(tmp_path)})

    after = snapshot(desk / "restored")
    assert len(after) > 40
    # The folder itself is none of the archive's entries.
    assert {path: entry for path, entry in after.items() if path} == {p: e for p, e in before.items() if p}
