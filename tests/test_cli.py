"""The command line as a newcomer meets it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import cli
from benchmarks.errors import explain

CHECKOUT = Path(__file__).parent.parent
COMMANDS = (
    "fit",
    "validate",
    "test",
    "demo",
    "list",
    "prepare",
    "leaderboard",
    "ablate",
    "doctor",
    "overhead",
    "throughput",
)

Bench = Callable[..., tuple[int, str, str]]


def test_help_shows_every_command_without_heavy_imports() -> None:
    program = "import sys; from benchmarks import cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass\n"
    program += "print(sorted({'torch', 'pytorch_lightning', 'scipy', 'sklearn', 'ffcv', 'numba'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for command in COMMANDS:
        assert re.search(rf"^    {command}\s", done.stdout, re.MULTILINE)
    assert done.stdout.endswith("[]\n")


def test_list_and_leaderboard_do_not_import_torch() -> None:
    program = "import sys; from benchmarks import cli; cli.main(['list']); cli.main(['leaderboard'])\n"
    program += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("False\n"), done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(bench: Bench, command: str) -> None:
    status, out, _ = bench(command, "--help")
    assert status == 0
    assert "usage: python -m benchmarks" in out


def test_unknown_command(bench: Bench) -> None:
    status, _, err = bench("train")
    assert status == 2
    assert "invalid choice: 'train'" in err


def test_module_and_console_script_run_the_same_function() -> None:
    import benchmarks.__main__ as entry

    assert entry.main is cli.main
    assert "ilsvrc-bench = benchmarks.cli:main" in (CHECKOUT / "setup.py").read_text()


def test_foreign_models_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").touch()
    program = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(CHECKOUT)!r}]; import benchmarks"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"the package `models` is {tmp_path / 'models'}" in done.stderr
    assert "pip install -e ." in done.stderr


def test_error_of_the_programme_keeps_its_traceback() -> None:
    assert explain(ZeroDivisionError("a bug")) == (None, 1)


def test_prepare_converts_verifies_and_does_not_convert_twice(bench: Bench, tmp_path: Path) -> None:
    pytest.importorskip("ffcv")
    status, out, _ = bench("prepare", "digits", "--loader", "ffcv")
    assert status == 0
    assert "digits train: 1437 images, 10 classes" in out
    assert "verified" in out
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.beton")}
    assert len(files) == 2
    assert bench("prepare", "digits", "--loader", "ffcv")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_prepare_names_a_damaged_file(bench: Bench, tmp_path: Path) -> None:
    pytest.importorskip("ffcv")
    assert bench("prepare", "digits", "--loader", "ffcv")[0] == 0
    path = next((tmp_path / "cache").rglob("digits-train-*.beton"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    status, _, err = bench("prepare", "digits", "--loader", "ffcv")
    assert status == 2
    assert str(path) in err
    assert "damaged" in err


@pytest.mark.parametrize("asked", [[], ["--loader", "resident"], ["--loader", "torch"]])
def test_prepare_writes_nothing_that_nobody_reads(bench: Bench, tmp_path: Path, asked: list[str]) -> None:
    status, out, _ = bench("prepare", "digits", *asked)
    assert status == 0
    assert "digits train: 1437 images, 10 classes" in out
    name, why = ("torch", "asked for") if asked[1:] == ["torch"] else ("resident", "the images fit in memory")
    why = "asked for" if asked else why
    assert f"no .beton: the {name} loader ({why}) does without; --loader ffcv writes one." in out
    assert not list(tmp_path.rglob("*.beton"))


def test_prepare_unknown_dataset(bench: Bench) -> None:
    status, _, err = bench("prepare", "svhn")
    assert status == 2
    assert "dataset (=svhn) must be one of digits, mnist, cifar10, cifar100, imagenet" in err


def test_demo_trains_the_field_once(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import demo

    monkeypatch.setattr(demo, "RECIPES", ("digits/linear",))
    status, out, _ = bench("demo", "--seeds", "1")
    assert status == 0
    assert "digits/linear" in out
    assert str(tmp_path / "runs" / "digits") in out
    status, out, _ = bench("demo", "--seeds", "1")
    assert status == 0
    assert "finished: digits/linear seed 0" in out
