"""`python -m benchmarks doctor`: is all that the suite needs here, and what to do about what is not.

Nothing is changed, and a broken package is a line in the list, never the end of it: what may be broken is imported in
processes of its own. Every check is a function that returns a Check, or a few.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import netrc
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

SUITE = "ilsvrc-bench"
CHECKOUT = Path(__file__).resolve().parent.parent

IMPORTED_AS = {"pillow": "PIL", "pytorch-lightning": "pytorch_lightning", "scikit-learn": "sklearn", "pyyaml": "yaml"}
PACKAGES = (
    *("torch", "torchvision", "pytorch-lightning", "jsonargparse", "pillow", "numpy", "scipy", "scikit-learn", "numba"),
    *("timm", "wandb", "filelock", "matplotlib", "tabulate", "tqdm", "pyyaml"),
)
OPTIONAL = {"wandb": "results are written to files only"}

PIP = f"{sys.executable} -m pip"
INSTALL = f"cd {CHECKOUT} && {PIP} install -e ."
REINSTALL_TORCH = f"{PIP} uninstall -y torch torchvision; {INSTALL}"
APT_FOR_FFCV = (
    "sudo apt-get install -y --no-install-recommends libopencv-dev libturbojpeg0-dev pkg-config g++ python3-dev"
)

IMPORT_SECONDS = 120  # a cold network file system has been seen to take a minute over `import torch`
GIGABYTE = 1e9


@dataclass(frozen=True)
class Check:
    """One line of the list. remedy says what to do; it is empty where all is well."""

    name: str
    state: Literal["ok", "warning", "missing"]
    detail: str
    remedy: str = ""


def doctor(root: str | None, cache: str | None) -> list[Check]:
    """Everything that is checked, in the order in which it is needed.

    root is where the original datasets are (default: $ILSVRC_BENCH_DATA), cache where the suite writes what it makes of
    them (default: $ILSVRC_BENCH_CACHE). Takes the time of importing PyTorch and FFCV, about 10 s.
    """
    with ThreadPoolExecutor() as pool:
        packages = pool.submit(run_probe, PROBE_PACKAGES, [IMPORTED_AS.get(name, name) for name in PACKAGES])
        ffcv = pool.submit(run_probe, PROBE_FFCV, [])
        checks: list[Callable[[], Check | list[Check]]] = [
            check_python,
            check_suite,
            check_checkout,
            lambda: check_packages(packages.result()),
            lambda: check_torchvision(packages.result()),
            lambda: check_ffcv(ffcv.result()),
            check_processors,
            check_memory,
            lambda: check_gpus(packages.result(), ask_driver()),
            lambda: check_cache(cache),
            lambda: check_data(root, cache),
            check_slurm,
            check_wandb,
            check_git,
        ]
        return [line for check in checks for line in without_crashing(check)]


def without_crashing(check: Callable[[], Check | list[Check]]) -> list[Check]:
    """What the check says; where it fails itself, a line that says so."""
    try:
        said = check()
    except Exception as error:
        name = getattr(check, "__name__", "check").removeprefix("check_")
        return [Check(name, "warning", f"could not be looked at: {in_short(error)}", "This is an error of the doctor.")]
    return said if isinstance(said, list) else [said]


# Packages -------------------------------------------------------------------------------------------------------------

# Imports each package in a process that may break, hang or be killed over it, then asks torchvision for an operator of
# its compiled half and the GPU for a sum. Prints {"imports": {name: error or ""}, "nms": ..., "cuda": ...}.
PROBE_PACKAGES = """
import importlib, json, sys, warnings
def attempt(act):
    try:
        act()
        return ""
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
found = {"imports": {name: attempt(lambda: importlib.import_module(name)) for name in sys.argv[1:]}}
def nms():
    import torch, torchvision
    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
found["nms"] = attempt(nms)
def gpus():
    import torch
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found["cuda"] = {"built for": torch.version.hip or torch.version.cuda, "warnings": [str(w.message) for w in caught]}
    devices = [torch.cuda.get_device_properties(index) for index in range(count)]
    found["cuda"]["devices"] = [[device.name, device.total_memory] for device in devices]
    found["cuda"]["error"] = attempt(lambda: (torch.ones(8, device="cuda") + 1).sum().item()) if count else ""
found["cuda error"] = attempt(gpus)
print(json.dumps(found))
"""

# numba takes the first threading layer of tbb, omp, workqueue that can be loaded.
PROBE_FFCV = """
import importlib, json
def attempt(name):
    try:
        importlib.import_module(name)
        return ""
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
pools = {"tbb": "numba.np.ufunc.tbbpool", "omp": "numba.np.ufunc.omppool"}
names = {"ffcv": "ffcv", **pools}
print(json.dumps({"imports": {short: attempt(name) for short, name in names.items()}}))
"""


def run_probe(source: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The JSON that the source prints last, or {"failed": why it printed none}."""
    command = [sys.executable, "-W", "ignore", "-c", source, *arguments]
    try:
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=IMPORT_SECONDS)
    except subprocess.TimeoutExpired:
        return {"failed": f"importing took longer than {IMPORT_SECONDS} s"}
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = done.stderr.strip().splitlines()[-1:] or ["nothing on stderr"]
        return {"failed": f"importing ended Python with status {done.returncode}: {last[0]}"}
    return found if isinstance(found, dict) else {"failed": f"importing printed {found!r}"}


def installed_version(name: str) -> str | None:
    """The version of an installed distribution. ffcv.__version__, for one, is that of another release."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def bounds() -> dict[str, str]:
    """Which versions setup.py asks for: distribution -> specifier. Empty where the suite is not installed."""
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires(SUITE) or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    asked = [Requirement(line) for line in lines]
    return {
        item.name.lower(): str(item.specifier) for item in asked if not (item.marker and "extra" in str(item.marker))
    }


def within(version: str, specifier: str) -> bool:
    """Whether the version is one that the specifier (">=2.6,<3") allows; those before a release count."""
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(specifier).contains(version, prereleases=True)


def in_short(error: object, width: int = 160) -> str:
    """The first line of an error, not longer than `width` characters."""
    text = f"{type(error).__name__}: {error}" if isinstance(error, Exception) else str(error)
    line = (text.strip().splitlines() or [""])[0]
    return line if len(line) <= width else line[: width - 3] + "..."


def check_python() -> Check:
    """Whether this Python is one that setup.py allows."""
    version = platform.python_version()
    if (3, 10) <= sys.version_info[:2] < (3, 14):
        return Check("python", "ok", f"{version}, {sys.executable}")
    remedy = "Make an environment with a Python from 3.10 to 3.13: PYTHON=python3.12 make setup"
    return Check("python", "missing", f"{version}; the suite needs 3.10 to 3.13", remedy)


def check_suite() -> Check:
    """Whether the suite's own metadata, which hold the versions it needs, are installed."""
    version = installed_version(SUITE)
    if version is None:
        return Check("suite", "warning", f"{SUITE} is not installed, so versions cannot be compared", INSTALL)
    return Check("suite", "ok", f"{SUITE} {version}, {CHECKOUT}")


def check_checkout() -> Check:
    """Whether `models` and `datamodules`, common names, are this checkout's."""
    for name in ("models", "datamodules"):
        spec = importlib.util.find_spec(name)
        places = [spec.origin] if spec and spec.origin else list((spec and spec.submodule_search_locations) or [])
        found = [Path(place).resolve() for place in places]
        if not found:
            return Check(
                "packages", "missing", f"{name} is not on Python's path", f"Run from {CHECKOUT}, or: {INSTALL}"
            )
        if not any(place.is_relative_to(CHECKOUT / name) for place in found):
            detail = f"{name} is {found[0]}, which is not {CHECKOUT / name}"
            remedy = f"Uninstall the other {name} or take it off PYTHONPATH, and run from {CHECKOUT}."
            return Check("checkout", "missing", detail, remedy)
    return Check("checkout", "ok", f"models and datamodules are those of {CHECKOUT}")


def check_packages(probe: Mapping[str, Any]) -> list[Check]:
    """One line a package: is it installed, is its version within setup.py's bound, can it be imported."""
    try:
        allowed = bounds()
    except ImportError:  # packaging comes with the others
        allowed = {}
    return [check_package(name, installed_version(name), allowed.get(name, ""), probe) for name in PACKAGES]


def check_package(name: str, version: str | None, specifier: str, probe: Mapping[str, Any]) -> Check:
    """One package; probe is what run_probe(PROBE_PACKAGES) found."""
    broken: Literal["warning", "missing"] = "warning" if name in OPTIONAL else "missing"
    without = f" ({OPTIONAL[name]})" if name in OPTIONAL else ""
    if version is None:
        return Check(name, broken, f"not installed{without}", INSTALL)
    error = probe.get("failed") or probe.get("imports", {}).get(IMPORTED_AS.get(name, name), "")
    if error and is_torchvision_trap(error):
        return Check(name, broken, f"{version}, cannot be imported: {in_short(error)}", REINSTALL_TORCH)
    if error:
        remedy = f'{PIP} install --force-reinstall --no-deps "{name}=={version}"'
        return Check(name, broken, f"{version}, cannot be imported{without}: {in_short(error)}", remedy)
    if specifier and not within(version, specifier):
        return Check(name, "warning", f"{version}, which is not within {specifier}", INSTALL)
    return Check(name, "ok", version)


def is_torchvision_trap(error: str) -> bool:
    """Whether the error is that of a torchvision that was compiled for another torch."""
    return "torchvision::" in error or ("undefined symbol" in error and "torchvision" in error)


def check_torchvision(probe: Mapping[str, Any]) -> Check:
    """Whether torch and torchvision are builds that belong together: the one trap that breaks everything else."""
    name = "torch with torchvision"
    versions = f"torch {installed_version('torch')}, torchvision {installed_version('torchvision')}"
    error = probe.get("failed") or probe.get("nms", "")
    if not error:
        return Check(name, "ok", "torchvision's operators work")
    if not is_torchvision_trap(error) and "custom C++ ops" not in error:
        return Check(name, "missing", f"not working: {in_short(error)}", REINSTALL_TORCH)
    detail = f"{versions} are builds that do not belong together: {in_short(error)}"
    why = "A CPU-only torch beside a torchvision that was built for CUDA does this. Take both from one place"
    return Check(name, "missing", detail, f"{why}: {REINSTALL_TORCH}")


# FFCV -----------------------------------------------------------------------------------------------------------------


def check_ffcv(probe: Mapping[str, Any]) -> list[Check]:
    """FFCV and numba's threading layer. FFCV is not needed: without it the torch loader is used."""
    version = installed_version("ffcv")
    if version is None:
        return [Check("ffcv", "warning", "not installed: the torch loader is used", remedy_for_ffcv())]
    if "failed" in probe:
        return [Check("ffcv", "warning", f"{version}: {probe['failed']}: the torch loader is used", remedy_for_ffcv())]
    errors = {name: error for name, error in probe["imports"].items() if error}
    line = Check("ffcv", "ok", version)
    if "ffcv" in errors:
        detail = f"{version}, cannot be imported: {in_short(errors['ffcv'])}: the torch loader is used"
        line = Check("ffcv", "warning", detail, remedy_for_ffcv(errors["ffcv"]))
    return [line, check_threading_layer(errors)]


def remedy_for_ffcv(error: str = "") -> str:
    """How to get FFCV here: with apt first where its libraries are missing."""
    if "distutils" in error:
        return f'FFCV imports distutils, which Python >= 3.12 has from setuptools only: {PIP} install "setuptools>=77"'
    install = f'cd {CHECKOUT} && {PIP} install -e ".[ffcv]"'
    return install if has_ffcv_libraries() else f"{APT_FOR_FFCV} && {install}"


def has_ffcv_libraries() -> bool:
    """Whether what FFCV is compiled against is installed."""
    try:
        return (
            subprocess.run(["pkg-config", "--exists", "opencv4", "libturbojpeg"], capture_output=True).returncode == 0
        )
    except OSError:
        return False


def check_threading_layer(errors: Mapping[str, str]) -> Check:
    """Which threading layer numba will take; errors is by layer, "tbb" and "omp", and holds those that do not load."""
    chosen = os.environ.get("NUMBA_THREADING_LAYER", "")
    if chosen in ("omp", "workqueue"):
        layer, remedy = chosen, f"unset NUMBA_THREADING_LAYER (it is {chosen})"
    else:
        layer = next((name for name in ("tbb", "omp") if name not in errors), "workqueue")
        remedy = f'{PIP} install "tbb>=2021.6"'
    if layer == "tbb":
        return Check("numba threads", "ok", "tbb")
    harm = {
        "omp": "a process that is forked after a loader has run is killed",
        "workqueue": "the process is aborted when two loaders run at once, as training and validation do",
    }
    return Check("numba threads", "warning", f"{layer}: {harm[layer]}", remedy)


# The machine ----------------------------------------------------------------------------------------------------------


def usable_processors() -> int:
    """How many processors this process may run on; SLURM and taskset leave it fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_processors() -> Check:
    """Processors of the machine, and those of them that this process may use."""
    there, usable = os.cpu_count() or 1, usable_processors()
    if usable == 1 < there:
        remedy = (
            "Under SLURM ask for more: --cpus-per-task=8 (and export SRUN_CPUS_PER_TASK, srun does not inherit it)."
        )
        return Check("processors", "warning", f"{there}, but this process may use only 1", remedy)
    return Check("processors", "ok", f"{there}, this process may use {usable}" if usable != there else f"{there}")


def available_memory() -> tuple[float, float]:
    """Memory in bytes: all of it, and what a new process could have. A container's own limit counts."""
    total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    available = total
    for line in read_or_empty("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            available = float(line.split()[1]) * 1024
    limit = read_or_empty("/sys/fs/cgroup/memory.max").strip()
    if limit.isdigit() and float(limit) < total:
        used = read_or_empty("/sys/fs/cgroup/memory.current").strip()
        total = float(limit)
        available = min(available, total - float(used or 0))
    return total, available


def read_or_empty(path: str) -> str:
    """The text of a small file; "" where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def check_memory() -> Check:
    """Memory, and whether there is enough of it free to train something small."""
    total, available = available_memory()
    detail = f"{total / GIGABYTE:.0f} GB, {available / GIGABYTE:.1f} GB of it available"
    if available < 3 * GIGABYTE:
        return Check("memory", "warning", detail, "A run takes about 3 GB: end other programs, or use fewer workers.")
    return Check("memory", "ok", detail)


def ask_driver() -> list[str]:
    """The GPUs that NVIDIA's driver knows, "name, memory, driver version" each; none where there is no driver."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def check_gpus(probe: Mapping[str, Any], driver: Sequence[str]) -> list[Check]:
    """One line a GPU that PyTorch can use; a warning where there are GPUs that it cannot."""
    cuda = probe.get("cuda", {})
    devices = cuda.get("devices", [])
    built_for = cuda.get("built for")
    if devices and not cuda.get("error"):
        version = driver[0].rsplit(",", 1)[-1].strip() if driver else "unknown"
        about = f"torch for CUDA {built_for}, driver {version}"
        lines = [f"{name}, {memory / GIGABYTE:.0f} GB, {about}" for name, memory in devices]
        return [Check(f"gpu {index}", "ok", line) for index, line in enumerate(lines)]
    if devices:
        remedy = "This build of PyTorch may be too new for the GPU: install the torch and torchvision of an older CUDA."
        return [Check("gpu", "warning", f"{devices[0][0]} does not compute: {in_short(cuda['error'])}", remedy)]
    if not driver:
        return [Check("gpu", "ok", "none: training runs on the CPU")]
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return [Check("gpu", "ok", f"hidden by CUDA_VISIBLE_DEVICES: {'; '.join(driver)}")]
    if "cuda" in probe and not built_for:
        detail = f"{driver[0]}, but torch {installed_version('torch')} is built for the CPU only"
        return [Check("gpu", "warning", detail, REINSTALL_TORCH)]
    reason = in_short((cuda.get("warnings") or [probe.get("cuda error") or "no reason given"])[0])
    detail = f"{driver[0]} (the driver's version is last), but torch for CUDA {built_for} cannot use it: {reason}"
    remedy = "Update the driver, or install the torch and torchvision that were built for an older CUDA."
    return [Check("gpu", "warning", detail, remedy)]


# Folders --------------------------------------------------------------------------------------------------------------


def cache_folder(cache: str | None) -> Path:
    """Where the suite writes what it makes; the same rule as in datamodules.originals, which creates it."""
    named = cache or os.environ.get("ILSVRC_BENCH_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ilsvrc-bench"


def nearest_existing(path: Path) -> Path:
    """The path, or the folder in which it would have to be made."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def check_cache(cache: str | None) -> list[Check]:
    """Whether the cache can be written to, by writing, and what is free there."""
    path = cache_folder(cache)
    place = nearest_existing(path)
    free = shutil.disk_usage(place).free / GIGABYTE
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"doctor")
    except OSError as error:
        detail = f"{path} cannot be written to: {in_short(error)}"
        remedy = "Name a folder of yours: export ILSVRC_BENCH_CACHE=/path/to/folder"
        return [Check("cache", "missing", detail, remedy)]
    line = Check("cache", "ok", f"{path}" + ("" if path.exists() else ", made when first used"))
    if free < 5:
        remedy = "Datasets are converted there: make room, or export ILSVRC_BENCH_CACHE=/path/on/another/disk"
        return [line, Check("free disk", "warning", f"{free:.1f} GB at the cache", remedy)]
    return [line, Check("free disk", "ok", f"{free:.0f} GB at the cache")]


# By which file a dataset is recognised, below the data root. Only what is cheap to see: whether it is complete and
# undamaged is found out by those who read it.
TRACES = {
    "MNIST": [f"{folder}train-images-idx3-ubyte*" for folder in ("MNIST/raw/", "mnist/raw/", "mnist/", "")],
    "CIFAR-10": [
        f"{folder}{name}"
        for folder in ("", "cifar10/", "cifar-10/", "CIFAR10/")
        for name in ("cifar-10-batches-py/data_batch_1*", "cifar-10-python.tar.gz")
    ],
    "CIFAR-100": [
        f"{folder}{name}"
        for folder in ("", "cifar100/", "cifar-100/", "CIFAR100/")
        for name in ("cifar-100-python/train*", "cifar-100-python.tar.gz")
    ],
    "ImageNet train": [
        f"{folder}{name}" for folder in ("", "imagenet/") for name in ("train/", "ILSVRC2012_img_train.tar")
    ],
    "ImageNet val": [f"{folder}{name}" for folder in ("", "imagenet/") for name in ("val/", "ILSVRC2012_img_val.tar")],
}


def datasets_in(root: Path) -> list[str]:
    """Which datasets have files below the folder, by their paths alone."""
    return [name for name, traces in TRACES.items() if any(any(root.glob(trace)) for trace in traces)]


def check_data(root: str | None, cache: str | None) -> Check:
    """Whether the folder with the original datasets is there, and which of them are in it."""
    named = root or os.environ.get("ILSVRC_BENCH_DATA")
    path = Path(named).expanduser() if named else cache_folder(cache) / "originals"
    known = "Put MNIST/raw, cifar-10-batches-py, train and val there, or name another: export ILSVRC_BENCH_DATA=/path"
    if named and not path.is_dir():
        return Check("data", "missing", f"{path} is not a folder", f"Correct the path, or make it. {known}")
    found = datasets_in(path) if path.is_dir() else []
    if found:
        return Check("data", "ok", f"{path}: {', '.join(found)}")
    if named:
        return Check("data", "warning", f"{path}: no dataset in it is known to the suite", known)
    return Check("data", "ok", f"ILSVRC_BENCH_DATA is not set and nothing is in {path}; recipes that need no files run")


# Surroundings ---------------------------------------------------------------------------------------------------------


def check_slurm() -> Check:
    """Whether jobs can be submitted from here, and whether this is one."""
    job = os.environ.get("SLURM_JOB_ID")
    inside = f"; inside job {job}" if job else ""
    found = {name: shutil.which(name) for name in ("sbatch", "srun")}
    if all(found.values()):
        return Check("slurm", "ok", f"sbatch and srun are on the path{inside}")
    if not any(found.values()) and not job:
        return Check("slurm", "ok", "none: runs are started on this machine")
    absent = " and ".join(name for name, place in found.items() if not place)
    return Check(
        "slurm", "warning", f"{absent} not on the path{inside}", "Load the cluster's module: module load slurm"
    )


def wandb_key_from() -> str:
    """Where a W&B key lies; "" where there is none. The key itself is not read out."""
    if os.environ.get("WANDB_API_KEY"):
        return "WANDB_API_KEY"
    # Releases from 0.31 on talk to the second by default and still take the key of the first.
    hosts = {"api.wandb.ai", "api.forge.coreweave.com", urlsplit(os.environ.get("WANDB_BASE_URL", "")).hostname}
    for file in (os.environ.get("NETRC") or "~/.netrc", "~/_netrc"):
        path = Path(file).expanduser()
        if path.is_file() and hosts & set(netrc.netrc(str(path)).hosts):
            return str(path)
    return ""


def check_wandb() -> Check:
    """Whether W&B would get the results. Files are the record, so nothing depends on it."""
    mode = os.environ.get("WANDB_MODE", "")
    if mode in ("disabled", "offline", "dryrun"):
        later = "" if mode == "disabled" else " while runs train, `python -m benchmarks sync` sends them"
        return Check("w&b", "ok", f"WANDB_MODE is {mode}: nothing is sent{later}")
    try:
        place = wandb_key_from()
    except (netrc.NetrcParseError, OSError) as error:
        return Check("w&b", "warning", f"netrc cannot be read: {in_short(error)}", "Correct that line of ~/.netrc.")
    if place:
        return Check("w&b", "ok", f"a key is in {place}" + (f", WANDB_MODE is {mode}" if mode else ""))
    if mode not in ("", "auto"):
        return Check("w&b", "warning", f"WANDB_MODE is {mode}, and there is no key", "wandb login, or unset WANDB_MODE")
    return Check("w&b", "ok", "no key: results are written to files only (`wandb login` to send them, too)")


def check_git() -> Check:
    """Whether a result can say which code it was made by."""
    remedy = "Results name the commit that made them: work in a `git clone`, with git on the path and a commit made."
    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no")
    except subprocess.CalledProcessError as error:
        return Check("git", "warning", f"no commit: {in_short(error.stderr or error)}", remedy)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("git", "warning", f"no commit: {in_short(error)}", remedy)
    return Check("git", "ok", f"commit {commit}" + (", with changes that are not committed" if changed else ""))


def git(*arguments: str) -> str:
    """What git says of the checkout."""
    command = ["git", "-C", str(CHECKOUT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()


# The list -------------------------------------------------------------------------------------------------------------


def as_table(checks: Sequence[Check]) -> str:
    """One aligned line a check, then the remedies of those that are not ok, then the count."""
    width = max(len(check.name) for check in checks)
    lines = [f"{check.state:<7}  {check.name:<{width}}  {check.detail}" for check in checks]
    sick = [check for check in checks if check.state != "ok"]
    if sick:
        lines += ["", "What to do:"]
        lines += [f"  {check.name}: {check.remedy}" for check in sick]
    counts = {state: sum(check.state == state for check in checks) for state in ("ok", "warning", "missing")}
    return "\n".join([*lines, "", ", ".join(f"{count} {state}" for state, count in counts.items())])


def main(argv: Sequence[str]) -> int:
    """Prints the list. Exit status 1 if something is missing that the suite cannot do without, else 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks doctor", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--root", help="folder with the original datasets (default: $ILSVRC_BENCH_DATA)")
    parser.add_argument(
        "--cache", help="folder the suite writes to (default: $ILSVRC_BENCH_CACHE, ~/.cache/ilsvrc-bench)"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text")
    arguments = parser.parse_args(argv)
    checks = doctor(arguments.root, arguments.cache)
    missing = any(check.state == "missing" for check in checks)
    if arguments.format == "json":
        print(json.dumps({"ok": not missing, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        print(as_table(checks))
    return int(missing)
