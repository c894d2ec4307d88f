"""Each check of the doctor, made to fail, and what it then says."""

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from benchmarks import doctor
from benchmarks.doctor import Check

NMS = "RuntimeError: operator torchvision::nms does not exist"
VARIABLES = (
    *("ILSVRC_BENCH_DATA", "ILSVRC_BENCH_CACHE", "XDG_CACHE_HOME", "NUMBA_THREADING_LAYER", "CUDA_VISIBLE_DEVICES"),
    *("SLURM_JOB_ID", "WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC"),
)


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def assert_sick(check: Check, state: str, *words: str) -> None:
    """The check is in that state, has a remedy, and says all these words."""
    assert check.state == state, check
    assert check.remedy, check
    for word in words:
        assert word in f"{check.detail} {check.remedy}", check


# Python and packages


def test_python_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    assert_sick(doctor.check_python(), "missing", "3.10 to 3.13", "PYTHON=")


def test_suite_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed_version", lambda name: None)
    assert_sick(doctor.check_suite(), "warning", "pip install -e .")


def test_models_of_somebody_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "models" / "__init__.py"
    spec = ModuleSpec("models", None, origin=str(other))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert_sick(doctor.check_checkout(), "missing", str(other), "Uninstall the other models")


def test_models_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert_sick(doctor.check_checkout(), "missing", "not on Python's path", "pip install -e .")


def test_packages_are_those_of_this_checkout() -> None:
    assert doctor.check_checkout().state == "ok"


def test_bounds_are_setup_pys_without_its_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["jsonargparse[signatures]<4.48,>=4.39", 'pillow>=9; extra == "ffcv"', 'tqdm<5; python_version > "3"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    assert doctor.bounds() == {"jsonargparse": "<4.48,>=4.39", "tqdm": "<5"}


def test_no_bounds_where_the_suite_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", absent)
    assert doctor.bounds() == {}


def test_every_requirement_of_setup_py_is_checked() -> None:
    names = [
        line.strip().split('"')[1]
        for line in (doctor.CHECKOUT / "setup.py").read_text().split("FFCV =")[0].splitlines()
        if line.startswith('    "')
    ]
    assert names
    unlike = {"tbb"}  # nothing one can import: it is looked at as numba's threading layer
    assert {name.split("[")[0].split(">=")[0] for name in names} - unlike == set(doctor.PACKAGES)


def test_package_not_installed() -> None:
    assert_sick(doctor.check_package("timm", None, ">=1", {}), "missing", "not installed", "pip install -e .")


def test_the_suite_does_without_wandb() -> None:
    assert_sick(doctor.check_package("wandb", None, "", {}), "warning", "files only")


def test_package_outside_its_bound() -> None:
    check = doctor.check_package("jsonargparse", "4.53.0", "<4.48,>=4.39", {"imports": {}})
    assert_sick(check, "warning", "4.53.0", "<4.48,>=4.39", "pip install -e .")


def test_package_that_cannot_be_imported() -> None:
    probe = {"imports": {"sklearn": "ValueError: numpy.dtype size changed"}}
    check = doctor.check_package("scikit-learn", "1.9.1", "", probe)
    assert_sick(check, "missing", "dtype size changed", '--force-reinstall --no-deps "scikit-learn==1.9.1"')


def test_a_package_broken_by_the_torchvision_trap_points_to_it() -> None:
    check = doctor.check_package("timm", "1.0.31", "", {"imports": {"timm": NMS}})
    assert_sick(check, "missing", NMS, "uninstall -y torch torchvision")


def test_torch_and_torchvision_of_different_builds() -> None:
    check = doctor.check_torchvision({"nms": NMS})
    assert_sick(check, "missing", "do not belong together", NMS, "CPU-only torch", "uninstall -y torch torchvision")


def test_torchvision_that_is_not_there() -> None:
    check = doctor.check_torchvision({"nms": "ModuleNotFoundError: No module named 'torchvision'"})
    assert_sick(check, "missing", "No module named", "pip install -e .")


def test_probe_tells_of_every_import() -> None:
    found = doctor.run_probe(
        doctor.PROBE_FFCV.replace("numba", "no_numba").replace('"ffcv": "ffcv"', '"ffcv": "json"'), []
    )
    assert found["imports"]["ffcv"] == ""
    assert found["imports"]["tbb"].startswith("ModuleNotFoundError")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import os; os.kill(os.getpid(), 11)", "status -11"),
        ("raise SystemExit('libGL.so.1 is missing')", "libGL.so.1 is missing"),
        ("print('no json')", "status 0"),
        ("print(3)", "printed 3"),
    ],
)
def test_probe_survives_what_it_runs(source: str, told: str) -> None:
    assert told in doctor.run_probe(source, [])["failed"]


def test_probe_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "IMPORT_SECONDS", 0.2)
    probe = doctor.run_probe("import time; time.sleep(60)", [])
    assert_sick(doctor.check_package("torch", "2.15.0", "", probe), "missing", "took longer than 0.2 s")
    assert_sick(doctor.check_torchvision(probe), "missing", "took longer")


# FFCV


def test_ffcv_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed_version", lambda name: None)
    monkeypatch.setattr(doctor, "has_ffcv_libraries", lambda: False)
    [check] = doctor.check_ffcv({"imports": {}})
    assert_sick(check, "warning", "torch loader", "libopencv-dev libturbojpeg0-dev", 'pip install -e ".[ffcv]"')


def test_ffcv_not_installed_where_its_libraries_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "has_ffcv_libraries", lambda: True)
    assert "apt-get" not in doctor.remedy_for_ffcv()


def test_ffcv_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed_version", lambda name: "1.0.2")
    errors = {"ffcv": "ImportError: libopencv_core.so.406: cannot open", "tbb": "", "omp": ""}
    ffcv, threads = doctor.check_ffcv({"imports": errors})
    assert_sick(ffcv, "warning", "libopencv_core.so.406", "torch loader")
    assert threads.state == "ok"


def test_ffcv_without_distutils(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed_version", lambda name: "1.0.2")
    errors = {"ffcv": "ModuleNotFoundError: No module named 'distutils'"}
    assert_sick(doctor.check_ffcv({"imports": errors})[0], "warning", "setuptools>=77")


def test_ffcv_that_ends_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed_version", lambda name: "1.0.2")
    [check] = doctor.check_ffcv({"failed": "importing ended Python with status -11"})
    assert_sick(check, "warning", "status -11", "torch loader")


@pytest.mark.parametrize(("absent", "layer"), [(["tbb"], "omp: "), (["tbb", "omp"], "workqueue: ")])
def test_threading_layer_without_tbb(absent: list[str], layer: str) -> None:
    check = doctor.check_threading_layer(dict.fromkeys(absent, "ImportError"))
    assert_sick(check, "warning", layer, "tbb>=2021.6")


def test_threading_layer_chosen_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_THREADING_LAYER", "workqueue")
    assert_sick(doctor.check_threading_layer({}), "warning", "two loaders", "unset NUMBA_THREADING_LAYER")


# The machine


def test_one_processor_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(doctor, "usable_processors", lambda: 1)
    assert_sick(doctor.check_processors(), "warning", "64", "--cpus-per-task")


def test_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available_memory", lambda: (8e9, 1.2e9))
    assert_sick(doctor.check_memory(), "warning", "8 GB", "1.2 GB")


def test_memory_limit_of_a_container_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"/sys/fs/cgroup/memory.max": "2000000000\n", "/sys/fs/cgroup/memory.current": "500000000\n"}
    monkeypatch.setattr(doctor, "read_or_empty", lambda path: texts.get(path, ""))
    assert doctor.available_memory() == (2e9, 1.5e9)


def cuda(**found: Any) -> dict[str, Any]:
    return {"cuda": {"built for": "13.2", "devices": [], "warnings": [], "error": "", **found}}


def test_no_gpu_is_fine() -> None:
    [check] = doctor.check_gpus(cuda(), [])
    assert check.state == "ok"
    assert "CPU" in check.detail


def test_every_gpu_has_its_line() -> None:
    checks = doctor.check_gpus(
        cuda(devices=[["NVIDIA H200", 150e9], ["NVIDIA H200", 150e9]]), ["NVIDIA H200, 1, 580.1"]
    )
    assert [(check.name, check.state) for check in checks] == [("gpu 0", "ok"), ("gpu 1", "ok")]
    assert checks[0].detail == "NVIDIA H200, 150 GB, torch for CUDA 13.2, driver 580.1"


def test_driver_too_old() -> None:
    told = "The NVIDIA driver on your system is too old (found version 12020)."
    [check] = doctor.check_gpus(cuda(warnings=[told]), ["NVIDIA A100, 40960 MiB, 535.104.05"])
    assert_sick(check, "warning", "535.104.05", "CUDA 13.2", "too old", "Update the driver")


def test_gpu_beside_a_cpu_build_of_torch() -> None:
    [check] = doctor.check_gpus(cuda(**{"built for": None}), ["NVIDIA A100, 40960 MiB, 580.1"])
    assert_sick(check, "warning", "CPU only", "uninstall -y torch torchvision")


def test_gpu_too_old_for_this_torch() -> None:
    found = cuda(devices=[["Tesla P100", 16e9]], error="AcceleratorError: no kernel image is available")
    [check] = doctor.check_gpus(found, ["Tesla P100, 16 GB, 580.1"])
    assert_sick(check, "warning", "Tesla P100", "no kernel image", "older CUDA")


def test_gpu_and_no_torch() -> None:
    [check] = doctor.check_gpus(
        {"cuda error": "ModuleNotFoundError: No module named 'torch'"}, ["NVIDIA A100, 1, 580.1"]
    )
    assert_sick(check, "warning", "No module named 'torch'")


def test_hidden_gpu_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    [check] = doctor.check_gpus(cuda(), ["NVIDIA A100, 1, 580.1"])
    assert (check.state, "CUDA_VISIBLE_DEVICES" in check.detail) == ("ok", True)


# Folders


def test_cache_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(dir: Path) -> None:
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refused)
    [check] = doctor.check_cache(str(tmp_path / "a" / "b"))
    assert_sick(check, "missing", str(tmp_path / "a" / "b"), "Permission denied", "ILSVRC_BENCH_CACHE")


def test_cache_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert_sick(doctor.check_cache(str(tmp_path / "file" / "cache"))[0], "missing", "ILSVRC_BENCH_CACHE")


def test_cache_is_not_made_by_looking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    line, _ = doctor.check_cache(None)
    assert line == Check("cache", "ok", f"{tmp_path}/xdg/ilsvrc-bench, made when first used")
    assert list(tmp_path.iterdir()) == []


def test_disk_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: type("Usage", (), {"free": 1e9}))
    assert_sick(doctor.check_cache(str(tmp_path))[1], "warning", "1.0 GB", "ILSVRC_BENCH_CACHE")


def test_data_folder_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ILSVRC_BENCH_DATA", str(tmp_path / "nowhere"))
    assert_sick(doctor.check_data(None, None), "missing", "nowhere is not a folder", "ILSVRC_BENCH_DATA")


def test_data_folder_without_a_dataset(tmp_path: Path) -> None:
    assert_sick(doctor.check_data(str(tmp_path), None), "warning", "no dataset", "MNIST/raw")


def test_no_data_folder_is_fine(tmp_path: Path) -> None:
    assert doctor.check_data(None, str(tmp_path)).state == "ok"


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("MNIST/raw/train-images-idx3-ubyte.gz", "MNIST"),
        ("train-images-idx3-ubyte", "MNIST"),
        ("cifar10/cifar-10-batches-py/data_batch_1.xz", "CIFAR-10"),
        ("cifar-100-python.tar.gz", "CIFAR-100"),
        ("imagenet/train/n01440764/a.JPEG", "ImageNet train"),
        ("ILSVRC2012_img_val.tar", "ImageNet val"),
    ],
)
def test_datasets_are_recognised(tmp_path: Path, file: str, name: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).touch()
    assert doctor.check_data(str(tmp_path), None) == Check("data", "ok", f"{tmp_path}: {name}")


# Surroundings


def test_slurm_by_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/srun" if name == "srun" else None)
    assert_sick(doctor.check_slurm(), "warning", "sbatch not on the path", "module load")


def test_inside_a_job_without_slurms_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert doctor.check_slurm().state == "ok"
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert_sick(doctor.check_slurm(), "warning", "inside job 17")


def test_wandb_key_is_named_by_its_place_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_wandb().state == "ok"
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password thekey\n")
    (tmp_path / ".netrc").chmod(0o600)
    check = doctor.check_wandb()
    assert (check.state, check.detail) == ("ok", f"a key is in {tmp_path}/.netrc")
    monkeypatch.setenv("WANDB_API_KEY", "thekey")
    assert doctor.check_wandb().detail == "a key is in WANDB_API_KEY"


def test_wandb_online_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    assert_sick(doctor.check_wandb(), "warning", "no key", "wandb login")


def test_netrc_that_cannot_be_parsed(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("mashine api.wandb.ai\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert_sick(doctor.check_wandb(), "warning", "netrc cannot be read")


def test_checkout_without_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.setattr(doctor, "CHECKOUT", tmp_path)
    assert_sick(doctor.check_git(), "warning", "no commit", "git clone")


def test_no_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert_sick(doctor.check_git(), "warning", "no commit", "git clone")


# The list


def test_a_check_that_fails_itself_is_a_line() -> None:
    def check_moon() -> Check:
        raise RuntimeError("clouds")

    [check] = doctor.without_crashing(check_moon)
    assert_sick(check, "warning", "clouds")
    assert check.name == "moon"


def test_table_is_aligned_and_ends_in_the_remedies() -> None:
    checks = [Check("a", "ok", "fine"), Check("long name", "missing", "gone", "fetch it")]
    assert doctor.as_table(checks).splitlines() == [
        "ok       a          fine",
        "missing  long name  gone",
        "",
        "What to do:",
        "  long name: fetch it",
        "",
        "1 ok, 0 warning, 1 missing",
    ]


@pytest.mark.parametrize(("state", "status"), [("ok", 0), ("warning", 0), ("missing", 1)])
def test_exit_status_and_json(state: Any, status: int, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(doctor, "doctor", lambda root, cache: [Check("a", "ok", "b"), Check("c", state, "d", "e")])
    assert doctor.main(["--format", "json"]) == status
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is (status == 0)
    assert told["checks"][1] == {"name": "c", "state": state, "detail": "d", "remedy": "e"}


def test_unknown_option_is_refused() -> None:
    with pytest.raises(SystemExit, match="2"):
        doctor.main(["--fromat", "json"])


def test_nothing_heavy_is_imported_by_the_doctor_itself() -> None:
    heavy = "{'torch', 'numpy', 'ffcv', 'numba', 'pytorch_lightning', 'packaging'}"
    code = f"import benchmarks.doctor, sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=doctor.CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_this_machine_from_end_to_end(tmp_path: Path) -> None:
    checks = doctor.doctor(str(tmp_path), str(tmp_path))
    names = [check.name for check in checks]
    assert len(set(names)) == len(names)
    assert {"python", "torch", "torch with torchvision", "ffcv", "processors", "data", "git"} <= set(names)
    for check in checks:
        assert bool(check.remedy) == (check.state != "ok"), check
        assert "\n" not in check.detail, check
        assert "error of the doctor" not in check.remedy, check
