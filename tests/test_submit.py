"""Submitting, as far as it goes without a cluster: what is refused, what scripts say, what stays a word."""

import json
import shlex
import shutil
import stat
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import jobs, status
from benchmarks.jobs import Resources, Submission, Task
from benchmarks.plan import training_images
from benchmarks.recipe import find_recipe, load_recipe
from benchmarks.results import COMMITTED, read_result
from benchmarks.runs import RunError

Bench = Callable[..., tuple[int, str, str]]

HOSTILE = [
    "a b",
    "'",
    '"',
    "$(touch canary)",
    "`touch canary`",
    "x; touch canary",
    "x\ntouch canary",
    "x\n#SBATCH --wrap=canary",
    "\\",
    "*",
    "-n",
    "",
    "é",
    "${HOME}",
    "# submit: end",
]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slurm's programs as stubs; the file holds what sbatch was asked to queue."""
    folder, noted = tmp_path / "bin", tmp_path / "queued"
    folder.mkdir()
    stubs = {
        "sbatch": f'case "$*" in *--test-only*) ;; *) echo "$@" >> {noted}; echo 41 ;; esac',
        "sinfo": "echo main; echo long",
        "squeue": "true",
        "sacct": "exit 1",
        "scontrol": "exit 1",
        "scancel": f'echo cancel "$@" >> {noted}',
    }
    for name, script in stubs.items():
        program = folder / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return noted


def task(folder: Path, *settings: str, seed: int = 0) -> Task:
    return Task("digits/linear", seed, list(settings), folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits/linaer"], "recipe (=digits/linaer) is neither a file nor a recipe of the suite: did you mean"),
        ([], "submit needs recipes, mnist/lenet5 for example, or --all instead of them."),
        (["digits/linear", "--partition", "mian"], "--partition (=mian) is not one of this cluster's, long, main"),
        (["digits/linear", "--partition", "main\n#SBATCH --wrap=x"], "must be of the form"),
        (["digits/linear", "--account", "$(touch x)"], "--account (='$(touch x)') must be of the form"),
        (["digits/linear", "--nodes", "3"], "data.init_args.batch_size (=32) must be divisible by nodes x tasks"),
        (["digits/linear", "--time", "0:03:00"], "--time (=0:03:00) must be more than 6 minutes"),
        (["digits/linear", "--time", "soon"], "must be of the form"),
        (["digits/linear", "--time", "1-"], "--time (=1-) must be a time as sbatch reads it"),
        (["digits/linear", "--gpus-per-node", "4", "--ntasks-per-node", "2"], "must be --gpus-per-node (=4), one task"),
        (["digits/linear", "--trainer.devices", "2"], "--trainer.devices cannot be given: a job takes it from"),
        (["digits/linear", "--sedes", "0-4"], "--sedes is no option of submit, and no setting"),
        (["digits/linear", "--model.nrom", "batch"], "digits/linear: "),
        (["digits/linear", "--seeds", "3"], "seeds (=3) must be a range such as 0-4"),
        (["digits/linear", "--runs", "a folder"], "must have no spaces or quotes"),
        (["imagenet/alexnet"], "imagenet/alexnet: "),
    ],
)
def test_refused_before_anything_is_queued(
    bench: Bench, cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    (tmp_path / "no data").mkdir()
    monkeypatch.setenv("ILSVRC_BENCH_DATA", str(tmp_path / "no data"))
    code, out, err = bench("submit", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert not cluster.exists()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("content", "message"), [(b"published: \xff\n", "must be text in UTF-8"), (b"", "is empty: write settings into it")]
)
def test_a_file_that_is_no_recipe_is_named(
    bench: Bench, cluster: Path, tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    code, _, err = bench("submit", str(path))
    assert code == 2
    assert err.startswith(f"error: custom/mine: {path} {message}")
    assert not cluster.exists()


def test_a_log_folder_that_cannot_be_written(bench: Bench, cluster: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, _, err = bench("submit", "digits/linear", "--runs", str(tmp_path / "file" / "runs"))
    assert code == 2
    assert f"cannot be written, since {tmp_path / 'file'} cannot: name another folder of runs with --runs" in err
    assert not cluster.exists()


def test_no_sbatch_on_the_path(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda program: None)
    code, _, err = bench("submit", "digits/linear")
    assert code == 2
    assert "sbatch is not on the path: submit on a login node of the cluster. --dry-run prints the script" in err


def test_no_bash_on_the_path(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = bench("submit", "digits/linear")
    assert code == 2
    assert "slurm/site.sh cannot be read: bash does not start (No such file or directory). Put it on the path." in err


def test_a_chain_is_queued_and_recorded(bench: Bench, cluster: Path, tmp_path: Path) -> None:
    arguments = ("--seeds", "0-4", "--array-limit", "2", "--data.loader", "torch", "--cpus-per-task", "1")
    code, out, err = bench("submit", "digits/linear", *arguments)
    assert code == 0, err
    assert out == "train\t41\nreport\t41\n"
    (folder,) = (tmp_path / "runs" / "jobs").iterdir()
    train, report = cluster.read_text().splitlines()
    assert train == f"--parsable {folder}/train.sbatch"
    assert report == f"--parsable --dependency=afterany:41 {folder}/report.sbatch"
    assert "#SBATCH --array=0-4%2\n" in (folder / "train.sbatch").read_text()
    record = json.loads((folder / "submission.json").read_text())
    assert [run["job"] for run in record["runs"]] == [f"41_{seed}" for seed in range(5)]
    assert all(Path(run["folder"]).is_relative_to(tmp_path / "runs" / "digits" / "linear") for run in record["runs"])
    code, out, _ = bench("status")
    assert code == 0
    assert out.count("gone, not finished") == 5
    assert "0 of 5 runs are finished. 5 have no job any more: submitted again, they go on" in out


def test_runs_wait_for_their_data(cluster: Path, tmp_path: Path) -> None:
    prepare = [jobs.Prepare("mnist", ["mnist", "--root", "/a b"])]
    submission = Submission(tmp_path / "jobs", [task(tmp_path)], Resources(), prepare)
    submission.write()
    submission.queue()
    _, train, _ = cluster.read_text().splitlines()
    assert "--dependency=afterok:41 --kill-on-invalid-dep=yes" in train
    assert "set -- mnist --root '/a b'\n" in (tmp_path / "jobs" / "prepare-mnist.sbatch").read_text()


def test_what_was_queued_is_cancelled_when_the_rest_is_refused(cluster: Path, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "sbatch"
    program.write_text(program.read_text().replace("case", 'case "$*" in *report*) exit 1 ;; esac; case', 1))
    submission = Submission(tmp_path / "jobs", [task(tmp_path)], Resources())
    submission.write()
    with pytest.raises(RunError, match=r"sbatch refuses report\.sbatch \(\): change what was asked for, or,"):
        submission.queue()
    assert cluster.read_text().splitlines()[-1] == "cancel 41"
    assert not (tmp_path / "jobs").exists()


def test_logs_of_jobs_that_had_begun_stay_when_the_record_cannot_be_written(
    cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    submission = Submission(tmp_path / "jobs", [task(tmp_path)], Resources())
    submission.write()
    (tmp_path / "jobs" / "log").touch()
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RunError, match=r"submission.json cannot be written \(No space left on device\), and the jobs"):
        submission.queue()
    assert cluster.read_text().splitlines()[-1] == "cancel 41 41"
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == ["log"]


def test_scripts_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text = Path.write_text

    def full(path: Path, text: str, **options: Any) -> int:
        if path.name == "report.sbatch":
            raise OSError(28, "No space left on device")
        return write_text(path, text, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(RunError, match=r"cannot be written \(No space left on device\): name another folder of runs"):
        Submission(tmp_path / "jobs", [task(tmp_path)], Resources()).write()
    assert not (tmp_path / "jobs").exists()


def test_nothing_is_left_of_what_sbatch_refuses(bench: Bench, cluster: Path, tmp_path: Path) -> None:
    why = "sbatch: error: Unable to contact slurm controller (connect failure)"
    (tmp_path / "bin" / "sbatch").write_text(f"#!/bin/sh\necho '{why}' >&2; exit 1\n")
    code, out, err = bench("submit", "digits/linear", "--data.loader", "torch")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == (
        f"error: sbatch refuses train.sbatch ({why}): change what was asked for, or, where it does not reach Slurm's "
        "controller, submit again when `sinfo` does."
    )
    assert list((tmp_path / "runs" / "jobs").iterdir()) == []


@pytest.mark.parametrize("several", [False, True])
def test_what_a_user_types_stays_a_word(tmp_path: Path, several: bool) -> None:
    tasks = [task(tmp_path, *HOSTILE, seed=seed) for seed in ((0, 1) if several else (0,))]
    script = jobs.train_script(tasks, Resources(), tmp_path)
    directives = script.splitlines()[: script.splitlines().index("set -uo pipefail")]
    assert not any("wrap" in line for line in directives)
    before, rest = script.split("# shellcheck source=slurm/site.sh", 1)
    assert rest
    program = before + '\nprintf "%s\\0" "$@"'
    environment = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_ARRAY_TASK_ID": "1" if several else ""}
    bash = shutil.which("bash") or "/bin/bash"
    done = subprocess.run([bash, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.split("\0")[:-1] == tasks[-1].words, done.stderr
    assert not (tmp_path / "canary").exists()
    with pytest.raises(RunError, match="has a zero byte, which no program can be given"):
        jobs.train_script([task(tmp_path, "a\0b")], Resources(), tmp_path)


@pytest.mark.parametrize("value", ["a b", "a'", 'a"', "a\nb", "a#b", "a\\b"])
def test_a_directive_takes_no_value_that_could_end_it(value: str) -> None:
    with pytest.raises(RunError, match="must have no space, quote, backslash or #: name another"):
        jobs.render(jobs.TEMPLATES / "train.sbatch", {"comment": value}, [])


def test_templates_have_their_marks(tmp_path: Path) -> None:
    templates = sorted(jobs.TEMPLATES.glob("*.sbatch"))
    assert len(templates) == 4
    for template in templates:
        assert "#SBATCH --nodes=7\n" in jobs.render(template, {"nodes": 7}, [])
    broken = tmp_path / "train.sbatch"
    broken.write_text(templates[-1].read_text().replace("# submit: end\n", ""))
    with pytest.raises(RunError, match=r"must begin with #! and have each of these lines once: # submit: options"):
        jobs.render(broken, {}, [])
    broken.write_text("#!/bin/bash\ntrue\n# submit: options\n# submit: begin\n# submit: end\n")
    with pytest.raises(RunError, match="must be before the first command"):
        jobs.render(broken, {}, [])
    with pytest.raises(RunError, match="cannot be read"):
        jobs.render(tmp_path / "none", {}, [])


def test_scripts_pass_shellcheck() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed: apt-get install shellcheck")
    scripts = sorted(map(str, jobs.TEMPLATES.iterdir()))
    done = subprocess.run(["shellcheck", "-x", *scripts], cwd=jobs.CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("10:30", 630), ("4:00:00", 14400), ("1-12", 129600), ("1-0:30", 88200), ("2-1:02:03", 176523)],
)
def test_times_as_sbatch_reads_them(text: str, seconds: int) -> None:
    assert jobs.read_time(text) == seconds


def test_the_site_decides_what_the_command_line_leaves_open(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site.sh"
    site.write_text("export SBATCH_PARTITION=long SBATCH_ACCOUNT=nets\n")
    monkeypatch.setenv("ILSVRC_BENCH_SITE", str(site))
    code, out, err = bench("submit", "digits/linear", "--dry-run", "--partition", "main", "--data.loader", "torch")
    assert code == 0, err
    assert out.count("#SBATCH --partition=main\n") == 2
    assert out.count("#SBATCH --account=nets\n") == 2
    site.write_text("exit 3\n")
    code, _, err = bench("submit", "digits/linear", "--dry-run")
    assert code == 2
    assert f"{site} cannot be read by bash" in err


def test_status_reads_the_run_folder_first(cluster: Path, tmp_path: Path) -> None:
    (tmp_path / "bin" / "squeue").write_text("#!/bin/sh\necho '7|RUNNING|None|N/A'\necho '8_1|PENDING|Priority|N/A'\n")
    (tmp_path / "bin" / "sacct").write_text("#!/bin/sh\necho '9|CANCELLED by 0'\n")
    folder = tmp_path / "run"
    folder.mkdir()
    columns = "epoch,step,perf/images_per_s,perf/train,perf/validation\n"
    (folder / "metrics.csv").write_text(f"{columns}0,10,100.5,2.0,1.0\n1,20,90.5,2.0,1.0\n")
    (folder / "state.json").write_text('{"status": "running", "step": 20, "epoch": 1, "at": "2026-01-01"}')
    runs = [
        {"job": job, "recipe": "a/b", "seed": 0, "settings": [], "folder": str(place), "epochs": 10}
        for job, place in (("7", folder), ("8_1", tmp_path / "none"), ("9", tmp_path / "none"))
    ]
    running, waiting, cancelled = status.build_rows({"runs": runs})
    assert (running.state, running.epoch, running.step, running.images_per_s) == ("running", "2/10", 20, 90.5)
    assert running.end  # 8 epochs of 3 s from now
    assert (waiting.state, waiting.epoch) == ("pending (Priority)", "0/10")
    assert cancelled.state == "cancelled, not finished"
    (folder / "result.json").touch()
    assert status.build_rows({"runs": runs})[0].state == "finished"


@pytest.fixture
def two_submissions(cluster: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The folders of two submissions, of one run each, which trains for 3 epochs."""
    folders = []
    for number in (1, 2):
        run, folder = tmp_path / f"run-{number}", tmp_path / "runs" / "jobs" / str(number)
        run.mkdir()
        folder.mkdir(parents=True)
        line = {"job": str(number), "recipe": f"a/{number}", "seed": 0, "folder": str(run), "epochs": 3}
        (folder / "submission.json").write_text(json.dumps({"runs": [line]}))
        folders.append(folder)
    return folders[0], folders[1]


NO_LIST = "it has no list of runs"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{}", NO_LIST),
        ("[]", NO_LIST),
        ("[[1]]", NO_LIST),
        ('{"runs": [{}]}', "a run in it has no job"),
        ('{"runs": [3]}', "a run in it has no job"),
        ('{"runs": [{"job": 7}]}', "a run in it has no job"),
        ("", "Expecting value: line 1 column 1 (char 0)"),
    ],
)
def test_status_names_a_damaged_record_and_shows_the_rest(
    bench: Bench, two_submissions: tuple[Path, Path], content: str, why: str
) -> None:
    path = two_submissions[0] / "submission.json"
    path.write_text(content)
    said = f"{path} is no record of a submission ({why}): restore it, or move its folder out of runs/jobs.\n"
    code, out, err = bench("status")
    assert (code, err) == (0, f"skipped: {said}")
    assert "a/2" in out
    assert bench("status", "--submission", str(path.parent)) == (2, "", f"error: {said}")


@pytest.mark.parametrize(
    ("content", "epoch", "why"),
    [
        (b"epoch,step\nfoo,1\n", "?/3", "epoch (='foo') of row 1 must be a whole number"),
        (b"epoch,step\n\xff\n", "?/3", "'utf-8' codec can't decode byte 0xff in position 11: invalid start byte"),
        (b"epoch,step,perf/train\n0,1,x\n", "?/3", "could not convert string to float: 'x'"),
        (b"epoch,step,perf/train\n0,44,3.2\n1", "1/3", ""),  # killed while it wrote
    ],
)
def test_status_names_a_damaged_table_and_shows_the_rest(
    bench: Bench, two_submissions: tuple[Path, Path], tmp_path: Path, content: bytes, epoch: str, why: str
) -> None:
    path = tmp_path / "run-1" / "metrics.csv"
    path.write_bytes(content)
    (tmp_path / "run-2" / "state.json").write_text("[1]")
    said = f"skipped: {path} is no table of a run ({why}): restore it, or move it away.\n" if why else ""
    code, out, err = bench("status", "--format", "json")
    assert (code, err) == (0, said)
    assert [(row["recipe"], row["epoch"]) for row in json.loads(out)] == [("a/1", epoch), ("a/2", "0/3")]


def test_status_of_what_is_not_there(bench: Bench, tmp_path: Path) -> None:
    code, _, err = bench("status", "--submission", str(tmp_path))
    assert (code, err) == (
        2,
        f"error: there is no {tmp_path / 'submission.json'}: name a folder in runs/jobs, or none.\n",
    )
    code, _, err = bench("status", "--runs", str(tmp_path / "none"))
    assert code == 2
    assert f"there is no folder {tmp_path / 'none'}: name the folder of runs with --runs, or leave it out." in err


def test_plan_says_what_was_not_measured(bench: Bench) -> None:
    code, out, _ = bench("plan", "imagenet/resnet50")
    assert code == 0
    assert "time      not known: give --images" in out
    code, out, _ = bench("plan", "imagenet/resnet50", "--images", "1000000")
    assert "time      not measured: no finished run of this recipe; give --images-per-s" in out
    code, out, _ = bench(
        "plan", "mnist/lenet5", "--images", "36000", "--images-per-s", "100", "--gpus-per-node", "2", "--seeds", "0-1"
    )
    # 20 epochs x 36 000 images / 100 per s = 2 h for one device
    assert "4 device-hours; 1.0 h a seed, if images/s grow with the devices" in out
    # 60 850 float32 weights and as many momenta, two checkpoints, two seeds
    assert "1.9 MB of checkpoints" in out
    code, out, _ = bench("plan", "mnist/lenet5")
    assert "60 000 images" in out
    assert "measured, 5 runs on" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images-per-s", "0"], "--images-per-s (=0.0) must be at least 0.001, and finite: give the images that one"),
        (["--images-per-s", "1e-320"], "--images-per-s (=1e-320) must be at least 0.001, and finite"),
        (["--images-per-s", "inf"], "--images-per-s (=inf) must be at least 0.001, and finite"),
        (["--images-per-s", "nan"], "--images-per-s (=nan) must be at least 0.001, and finite"),
        (["--seeds", "0-99999999999"], "seeds (=0-99999999999) must be at most 10000, one run each: name fewer."),
        (["--runs", "/nonexistent"], "there is no folder /nonexistent: name the folder of runs with --runs, or leave"),
        (["--runs", __file__], f"there is no folder {__file__}: name the folder of runs with --runs, or leave it out"),
    ],
)
def test_plan_refuses_what_is_no_number(bench: Bench, arguments: list[str], message: str) -> None:
    code, out, err = bench("plan", "mnist/lenet5", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("part", "settings", "message"),
    [
        ("data", {}, "data.init_args.batch_size (=None) must be a whole number of at least 1: correct it."),
        ("data", {"init_args": {"batch_size": "many"}}, "data.init_args.batch_size (=many) must be a whole number"),
        ("data", {"init_args": {"batch_size": 0}}, "data.init_args.batch_size (=0) must be a whole number of at least"),
        ("trainer", {"max_epochs": "many"}, "trainer.max_epochs (=many) must be a whole number of at least -1"),
        ("trainer", {"max_steps": [5]}, "trainer.max_steps (=[5]) must be a whole number of at least -1"),
        ("published", {"parameters": "many"}, "published.parameters (=many) must be a whole number of at least 1"),
    ],
)
def test_plan_names_the_number_of_a_recipe_that_is_none(
    bench: Bench, tmp_path: Path, part: str, settings: dict[str, Any], message: str
) -> None:
    content = yaml.safe_load(find_recipe("mnist/lenet5").read_text())
    content[part] = {**content[part], **settings} if settings and part == "published" else settings
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    code, out, err = bench("plan", str(path))
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {path}: {message}")


def test_plan_takes_the_images_of_a_result_that_counted_them() -> None:
    recipe = load_recipe(find_recipe("mnist/lenet5"))
    whole = read_result(next((COMMITTED / "mnist" / "lenet5").glob("seed-*.json")))
    lacking = [replace(whole, dataset=dataset) for dataset in ({}, {"train": None}, {"train": {"count": "many"}})]
    assert training_images(recipe, [*lacking, whole]) == 60_000
    assert training_images(recipe, lacking) is None


def test_by_hand_templates_ask_for_their_arguments(tmp_path: Path) -> None:
    for template in sorted(jobs.TEMPLATES.glob("*.sbatch")):
        environment = {"SLURM_SUBMIT_DIR": str(jobs.CHECKOUT), "SLURM_ARRAY_TASK_ID": "0"}
        done = subprocess.run(["bash", str(template)], env=environment, capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.startswith("usage: sbatch "), done.stderr


def test_commands_can_be_copied(tmp_path: Path) -> None:
    assert shlex.split(shlex.join(HOSTILE)) == HOSTILE
    assert jobs.ranges([0, 1, 2, 5]) == "0-2,5"
