"""Copies on a node's own disk: one for all, whole or not at all, and never a reason to stop."""

import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from datamodules import staging

CONTENT = bytes(range(256)) * 4096


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A file with its manifest, as `prepare` leaves them."""
    path = tmp_path / "shared" / "mnist-train-0123.beton"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    path.with_suffix(".json").write_text(json.dumps({"sha256": hashlib.sha256(CONTENT).hexdigest()}))
    return path


def test_several_jobs_share_one_copy(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = tmp_path / "node's own"
    assert staging.nearest(shared) == shared
    monkeypatch.setenv(staging.VARIABLE, str(local))
    assert staging.nearest(shared) == shared
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda _: staging.stage(shared, local, "copy"), range(8)))
    copy = staging.nearest(shared)
    assert copy.parent == local
    assert copy.read_bytes() == CONTENT
    assert sorted(text.split(" is ")[1].split(" of")[0] for text in said) == ["a copy"] + ["there already"] * 7
    assert sorted(path.suffix for path in local.iterdir()) == [".beton", ".lock"]


def test_a_cut_copy_is_not_read(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(staging.VARIABLE, str(tmp_path))
    staging.stage(shared, tmp_path, "copy")
    staging.nearest(shared).write_bytes(CONTENT[:-1])
    assert staging.nearest(shared) == shared


@pytest.mark.parametrize("fault", ["checksum", "full", "folder", "manifest", "asked", "fits"])
def test_what_is_not_copied_is_read_in_place(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    local, policy, why = tmp_path / "local", "copy", ""
    monkeypatch.setenv(staging.VARIABLE, str(local))
    if fault == "checksum":
        shared.write_bytes(CONTENT[::-1])
        why = "its checksum is not that of the manifest"
    elif fault == "full":
        monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**6))
        why = "has 0.0 GB free, the copy takes 0.0 GB and leaves 1.1 GB"
    elif fault == "folder":
        local.touch()
        why = "could not be copied"
    elif fault == "manifest":
        shared.with_suffix(".json").unlink()
        why = "it is not converted yet"
    elif fault == "asked":
        policy, why = "never", "as asked"
    else:
        policy, why = "auto", "fit in the memory of the node"
    said = staging.stage(shared, local, policy)
    assert said.startswith(f"{shared} is read in place")
    assert why in said
    assert staging.nearest(shared) == shared
    assert not list(tmp_path.rglob("*.unfinished"))


def test_memory_is_bounded_by_what_the_job_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1")
    assert staging.free_memory() == 1 << 20


def test_the_command_needs_no_torch(shared: Path, tmp_path: Path) -> None:
    program = "import sys; from benchmarks.cli import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    words = ["stage", "--policy", "copy", "--to", str(tmp_path / "local"), str(shared)]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    assert "is a copy of" in done.stdout
    assert done.stdout.endswith("False\n")
