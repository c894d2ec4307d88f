"""The set-up script, run on a machine made of stubs: no apt, no root, a pip that only notes what it is asked."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = [ROOT / ".ci" / "setup", ROOT / ".ci" / "run"]
BASH = shutil.which("bash") or "/bin/bash"

# What .ci/setup takes from any Unix. Whatever else it calls is a stub, or absent.
TOOLS = (*("awk", "cat", "cksum", "cp", "dirname", "env", "flock"), *("mkdir", "mv", "rm", "sed", "tail", "tr"))

APT = "sudo apt-get install -y --no-install-recommends libopencv-dev libturbojpeg0-dev pkg-config g++"
CONDA = "conda install -y -c conda-forge pkg-config opencv libjpeg-turbo cxx-compiler"

# A Python that runs code, and in place of venv and pip notes the call. Files beside the log switch it: with
# `log.fail-install` the call `pip install` fails, and so on.
PYTHON = """#!{bash}
case "$*" in
    -c*version_info*) [[ -e {log}.old ]] && exit 1; exec {python} "$@" ;;
    -c*include*) echo {headers} ;;
    -c*) [[ -e {log}.no-venv && "$2" == *ensurepip* ]] && exit 1; exec {python} "$@" ;;
    -V) echo Python 3.99 ;;
    "-m venv "*) echo "venv $3" >> {log}; mkdir -p "$3/bin"; cp {stub} "$3/bin/python" ;;
    "-m pip --version") ;;
    "-m pip --no-input wheel"*)
        echo "pip ${{*:4}}" >> {log}; echo "compiling"
        [[ -e {log}.fail-wheel ]] && exit 1
        mkdir -p "$TMPDIR/ffcv"; : > "$TMPDIR/ffcv/ffcv-1.0.2-any.whl" ;;
    *) echo "pip ${{*:4}}" >> {log}; echo "a line of pip's"; [[ ! -e {log}.fail-install ]] ;;
esac
"""


class Machine:
    """A checkout and a path of stubs in one folder; `calls` is what they were asked."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"
        self.checkout, self.venv, self.bin = folder / "checkout", folder / "venv", folder / "bin"
        (self.checkout / ".ci").mkdir(parents=True)
        shutil.copy(ROOT / ".ci" / "setup", self.checkout / ".ci" / "setup")
        shutil.copy(ROOT / "setup.py", self.checkout)
        self.bin.mkdir()
        for tool in TOOLS:
            place = shutil.which(tool)
            if place:
                (self.bin / tool).symlink_to(place)
        self.stub("id", "echo 1000")
        self.stub("df", "echo header; echo /dev/x 1 1 50000000 1% /")
        headers = folder / "headers"
        headers.mkdir()
        (headers / "Python.h").touch()
        python = self.bin / "python3"
        text = PYTHON.format(bash=BASH, log=self.log, python=sys.executable, stub=python, headers=headers)
        python.write_text(text)
        python.chmod(0o755)

    def stub(self, name: str, body: str) -> None:
        """A program of that name; without it the name is not found."""
        file = self.bin / name
        file.unlink(missing_ok=True)
        file.write_text(f"#!{BASH}\n{body}\n")
        file.chmod(0o755)

    def add_ffcv_prerequisites(self) -> None:
        self.stub("pkg-config", "exit 0")
        self.stub("c++", "exit 0")

    def switch(self, name: str, on: bool = True) -> None:
        file = Path(f"{self.log}.{name}")
        file.touch() if on else file.unlink()

    def setup(self, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": str(self.bin),
            "ILSVRC_BENCH_VENV": str(self.venv),
            "HOME": str(self.folder),
            **variables,
        }
        command = [BASH, str(self.checkout / ".ci" / "setup")]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    @property
    def stamp(self) -> Path:
        return self.venv / "setup-stamp"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse_and_can_be_run(script: Path) -> None:
    subprocess.run([BASH, "-n", str(script)], check=True)
    assert os.access(script, os.X_OK)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing() -> None:
    done = subprocess.run(["shellcheck", *map(str, SCRIPTS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_bare_machine_goes_on_without_ffcv_and_says_how_to_add_it(machine: Machine) -> None:
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    assert machine.calls == [f"venv {machine.venv}", "pip install --upgrade pip", "pip install -e .[dev]"]
    assert done.stdout.count(APT) == 1
    assert done.stdout.count(CONDA) == 1
    assert "torch loader" in done.stdout
    assert machine.stamp.read_text().endswith(" without-ffcv\n")
    assert not (machine.venv / "tmp").exists()


def test_second_call_does_nothing(machine: Machine) -> None:
    machine.setup()
    before = machine.calls
    done = machine.setup()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert machine.calls == before


def test_ffcv_is_added_when_its_prerequisites_have_come(machine: Machine) -> None:
    machine.setup()
    machine.add_ffcv_prerequisites()
    before = len(machine.calls)
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    wheel = f"{machine.venv}/tmp/ffcv/ffcv-1.0.2-any.whl"
    assert machine.calls[before:] == [
        "pip install --upgrade pip",
        f"pip wheel --no-deps --wheel-dir {machine.venv}/tmp/ffcv ffcv==1.0.2",
        f"pip install -e .[dev,ffcv] {wheel}",
    ]
    assert machine.stamp.read_text().endswith(" with-ffcv\n")
    assert "conda" not in done.stdout
    assert machine.setup().stdout == ""


def test_ffcv_that_does_not_compile_is_left_out_and_its_log_named(machine: Machine) -> None:
    machine.add_ffcv_prerequisites()
    machine.switch("fail-wheel")
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    log = machine.venv / "setup-ffcv.log"
    assert "did not compile" in done.stdout
    assert str(log) in done.stdout
    assert log.read_text() == "compiling\n"
    assert machine.calls[-1] == "pip install -e .[dev]"
    assert machine.setup().stdout == "", "a failed compilation is not tried on every call"


def test_other_requirements_are_installed(machine: Machine) -> None:
    machine.setup()
    with (machine.checkout / "setup.py").open("a") as file:
        file.write("# one more\n")
    before = len(machine.calls)
    machine.setup()
    assert machine.calls[before:] == ["pip install --upgrade pip", "pip install -e .[dev]"]


def test_failing_pip_leaves_no_stamp(machine: Machine) -> None:
    machine.setup()
    machine.switch("fail-install")
    (machine.checkout / "setup.py").write_text("# other requirements\n")
    done = machine.setup()
    assert done.returncode == 1
    assert "a line of pip's" in done.stderr
    assert f"{machine.venv}/setup-pip.log" in done.stderr
    assert not machine.stamp.exists()
    machine.switch("fail-install", on=False)
    assert machine.setup().returncode == 0
    assert machine.stamp.exists()


def test_too_old_python_is_refused(machine: Machine) -> None:
    machine.switch("old")
    done = machine.setup()
    assert done.returncode == 2
    assert "no Python 3.10 to 3.13" in done.stderr
    assert done.stderr.count("apt-get") == 1
    assert machine.calls == []
    assert not machine.venv.exists()


def test_the_python_asked_for_is_not_replaced_by_another(machine: Machine) -> None:
    done = machine.setup(PYTHON="python3.9")
    assert done.returncode == 2
    assert "PYTHON=python3.9" in done.stderr
    assert machine.calls == []


def test_environment_with_a_broken_python_is_named_not_removed(machine: Machine) -> None:
    (machine.venv / "bin").mkdir(parents=True)
    (machine.venv / "bin" / "python").symlink_to(machine.folder / "gone")
    done = machine.setup()
    assert done.returncode == 2
    assert f"rm -rf {machine.venv}" in done.stderr
    assert (machine.venv / "bin" / "python").is_symlink()


def test_missing_venv_module_names_its_package(machine: Machine) -> None:
    machine.switch("no-venv")
    done = machine.setup()
    assert done.returncode == 2
    package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
    assert f"sudo apt-get install -y {package}" in done.stderr


def test_full_disk_is_refused_before_anything_is_installed(machine: Machine) -> None:
    machine.stub("df", "echo header; echo /dev/x 1 1 5000000 1% /")
    done = machine.setup()
    assert done.returncode == 2
    assert "5 GB free" in done.stderr
    assert "ILSVRC_BENCH_VENV=" in done.stderr
    assert machine.calls == []


def test_root_installs_the_prerequisites_with_apt(machine: Machine) -> None:
    machine.stub("id", "echo 0")
    machine.stub("apt-get", f'echo "apt $DEBIAN_FRONTEND ${{*: -5}}" >> {machine.log}; exit 0')
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    apt = [call for call in machine.calls if call.startswith("apt")]
    assert len(apt) == 2
    assert apt[1] == "apt noninteractive --no-install-recommends libopencv-dev libturbojpeg0-dev pkg-config g++"


def test_apt_that_fails_is_said_and_not_tried_again(machine: Machine) -> None:
    machine.stub("id", "echo 0")
    machine.stub("apt-get", f"echo apt >> {machine.log}; exit 100")
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    assert "setup-apt.log" in done.stdout
    assert APT in done.stdout
    before = machine.calls
    assert machine.setup().stdout == ""
    assert machine.calls == before


def test_sudo_that_wants_a_password_is_not_asked_for_one(machine: Machine) -> None:
    machine.stub("sudo", f'[[ "$*" == "-n true" ]] || echo "sudo $*" >> {machine.log}; exit 1')
    machine.stub("apt-get", f"echo apt >> {machine.log}")
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    assert not [call for call in machine.calls if call.startswith(("apt", "sudo"))]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_help_lists_every_target() -> None:
    done = subprocess.run(["make", "-C", str(ROOT), "--no-print-directory"], capture_output=True, text=True, check=True)
    targets = [line.split()[1] for line in done.stdout.splitlines()]
    phony = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(".PHONY:"))
    assert targets
    assert sorted(targets) == sorted(phony.split()[1:])
