"""Jobs on a real Slurm, which `slurm_cluster` starts on this machine: what they do when all is well and when not.

What a job's script does is tried with a stub in place of Python, which takes seconds; what training must come to is
tried with training.
"""

import csv
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import jobs
from benchmarks.leaderboard import HEADERS
from tests.slurm_cluster import Cluster, NoClusterError, running_cluster

pytestmark = pytest.mark.slurm

Bench = Callable[..., tuple[int, str, str]]

QUICK = ("--data.loader", "torch", "--cpus-per-task", "1", "--mem", "100", "--time", "30")


def pace(seconds: float) -> tuple[str, ...]:
    """Settings for epochs of so many seconds at least."""
    return ("--trainer.callbacks", "tests.slurm_pace.Pace", "--trainer.callbacks.seconds", str(seconds))


# In place of the suite: it notes its arguments, and does what the file `do` beside it says, once for each start.
STUB = """#!/usr/bin/env bash
[[ "$3" == fit ]] || exit 0
here="$(dirname "$0")"
printf '%s\\0' "${@:4}" >"$here/words.$SLURM_PROCID"
echo "folder $here/run" >>"$ILSVRC_BENCH_NOTES"
mkdir -p "$here/run"
echo "start ${SLURM_RESTART_COUNT:-0} task ${SLURM_ARRAY_TASK_ID:-} rank $SLURM_PROCID" >>"$here/starts"
state() { echo "{\\"status\\": \\"$1\\", \\"step\\": $2, \\"epoch\\": 0, \\"at\\": \\"\\"}" >"$here/run/state.json"; }
source "$here/do"
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    try:
        with running_cluster(nodes=2) as started:
            yield started
    except NoClusterError as why:
        pytest.skip(str(why))


@pytest.fixture
def on_cluster(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster, with its programs on this test's path, and this Python in its jobs."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ILSVRC_BENCH_VENV", str(Path(sys.prefix)))
    monkeypatch.setenv("ILSVRC_BENCH_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("ILSVRC_BENCH_DATA", raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # here as in its jobs: sums over another number of threads differ in their last bit
    yield cluster
    torch.set_num_threads(threads)


class Stub:
    """A run whose Python is a stub that does what `does` says, in bash."""

    def __init__(self, cluster: Cluster, folder: Path, monkeypatch: pytest.MonkeyPatch, does: str) -> None:
        self.cluster, self.folder = cluster, folder
        (folder / "do").write_text(does)
        (folder / "python").write_text(STUB)
        (folder / "python").chmod(0o755)
        site = folder / "site.sh"
        site.write_text(f"source {jobs.TEMPLATES}/site.sh\npython=({folder}/python)\n")
        monkeypatch.setenv("ILSVRC_BENCH_SITE", str(site))

    def submit(self, *options: str, template: str = "train", words: tuple[str, ...] = ("a/b", "0")) -> str:
        words = ("--cpus-per-task=1", "--mem=100", f"--chdir={jobs.CHECKOUT}", *options, self.script(template), *words)
        log = f"--output={self.folder}/log-%a" if template == "array" else f"--output={self.folder}/log"
        return self.cluster.run("env", "-C", str(jobs.CHECKOUT), "sbatch", "--parsable", log, *words).strip()

    @staticmethod
    def script(template: str) -> str:
        return str(jobs.TEMPLATES / f"{template}.sbatch")

    @property
    def starts(self) -> list[str]:
        path = self.folder / "starts"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def stub(on_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Stub]:
    return lambda does: Stub(on_cluster, tmp_path, monkeypatch, does)


# The life of a job ----------------------------------------------------------------------------------------------------


def test_a_stopped_run_comes_back_and_writes_to_the_same_log(stub: Callable[[str], Stub], tmp_path: Path) -> None:
    both_here = 'until [[ $(grep -c "start ${SLURM_RESTART_COUNT:-0}" "$here/starts") == 2 ]]; do sleep 0.1; done; '
    run = stub(both_here + 'if [[ "${SLURM_RESTART_COUNT:-0}" == 0 ]]; then state stopped 5; exit 75; fi; exit 0')
    job = run.submit("--nodes=2")
    run.cluster.wait(job)
    starts = [f"start {start} task  rank {rank}" for start in (0, 1) for rank in (0, 1)]
    assert sorted(run.starts) == starts
    log = (tmp_path / "log").read_text()
    assert "requeued: stopped with a checkpoint" in log
    assert f"job {job}, start 1: a/b 0" in log
    assert f"job {job}, start 2: a/b 0" in log


def test_only_the_task_of_an_array_that_stopped_comes_back(stub: Callable[[str], Stub]) -> None:
    run = stub('[[ "$SLURM_ARRAY_TASK_ID$SLURM_RESTART_COUNT" != 2 ]] || { state stopped 5; exit 75; }; exit 0')
    job = run.submit("--array=1-3", template="array", words=("a/b",))
    for task in (1, 2, 3):
        run.cluster.wait(f"{job}_{task}")
    expected = ["start 0 task 1 rank 0", "start 0 task 2 rank 0", "start 0 task 3 rank 0", "start 1 task 2 rank 0"]
    assert sorted(run.starts) == expected


@pytest.mark.parametrize(
    ("does", "state", "starts", "says"),
    [
        ("echo exit 2 >>$ILSVRC_BENCH_NOTES; exit 2", "FAILED", 1, "fit ended with status 2"),
        (
            "state running 3; exit 1",
            "FAILED",
            5,
            "requeued: failed without progress, 3 in a row",
        ),  # after one that got on
        ("echo exit 1 >>$ILSVRC_BENCH_NOTES; state running 3; exit 1", "FAILED", 1, "fit ended with status 1"),
        ("state finished 3; kill -9 $$", "COMPLETED", 1, "the run is finished"),
    ],
)
def test_what_a_failure_comes_to(
    stub: Callable[[str], Stub], tmp_path: Path, does: str, state: str, starts: int, says: str
) -> None:
    run = stub(does)
    run.cluster.wait(run.submit(), state)
    assert len(run.starts) == starts
    assert says in (tmp_path / "log").read_text()


def test_restarts_are_bounded(stub: Callable[[str], Stub], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ILSVRC_BENCH_RESTARTS", "1")
    run = stub("state stopped 5; exit 75")
    run.cluster.wait(run.submit(), "FAILED")
    assert len(run.starts) == 2
    assert "not requeued: 1 restarts, as many as ILSVRC_BENCH_RESTARTS allows" in (tmp_path / "log").read_text()


def test_scancel_ends_a_run_that_answers_it(stub: Callable[[str], Stub]) -> None:
    run = stub("trap 'state stopped 5; exit 75' TERM; state running 5; while :; do sleep 0.1; done")
    job = run.submit()
    run.cluster.until(lambda: bool(run.starts), "start", 30)
    run.cluster.run("scancel", job)
    run.cluster.wait(job, "CANCELLED")
    time.sleep(6)  # a requeued job would start after 5 s
    assert run.cluster.state(job) == "CANCELLED"
    assert len(run.starts) == 1


def test_nodes_without_the_data_are_named_before_python_starts(
    stub: Callable[[str], Stub], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ILSVRC_BENCH_DATA", "/no/such/folder")
    run = stub("exit 0")
    run.cluster.wait(run.submit("--nodes=2"), "FAILED")
    assert not run.starts
    log = (tmp_path / "log").read_text()
    for node in run.cluster.nodes:
        assert f"error: {node} cannot read ILSVRC_BENCH_DATA (=/no/such/folder): every node must" in log


def test_hostile_words_reach_python_as_they_are(stub: Callable[[str], Stub], tmp_path: Path) -> None:
    hostile = ["a b", "'", '"', "$(touch canary)", "`touch canary`", "x\ntouch canary", "x\n#SBATCH --hold", "\\", "*"]
    run = stub("exit 0")
    task = jobs.Task("a/b $(touch canary)", 0, hostile, tmp_path)
    options = {"cpus-per-task": 1, "mem": "100"}
    submission = jobs.Submission(tmp_path / "jobs", [task], jobs.Resources(options), report=False)
    submission.write()
    submission.test()
    run.cluster.wait(submission.queue()["train.sbatch"])
    words = (tmp_path / "words.0").read_bytes().decode().split("\0")[:-1]
    assert words[:2] == ["--config", "a/b $(touch canary)"]
    assert words[-len(hostile) :] == hostile
    assert not list(tmp_path.rglob("canary"))
    assert not (jobs.CHECKOUT / "canary").exists()


def test_one_copy_on_each_node_for_two_jobs(on_cluster: Cluster, tmp_path: Path) -> None:
    shared = tmp_path / "a.beton"
    shared.write_bytes(b"images")
    shared.with_suffix(".json").write_text(json.dumps({"sha256": sha256(shared)}))
    script = tmp_path / "job.sh"
    command = f"{sys.executable} -m benchmarks stage --policy copy --to {tmp_path}/$SLURMD_NODENAME {shared}"
    script.write_text(f"#!/bin/bash\n#SBATCH --nodes=2 --ntasks-per-node=1 --mem=100\nsrun bash -c '{command}'\n")
    options = (f"--chdir={jobs.CHECKOUT}", "--array=0-1", f"--output={tmp_path}/log-%a")
    job = on_cluster.submit(*options, str(script))
    for task in (0, 1):
        on_cluster.wait(f"{job}_{task}")
    said = "".join((tmp_path / f"log-{task}").read_text() for task in (0, 1))
    assert said.count("is a copy of") == 2
    assert said.count("is there already") == 2


def sha256(path: Path) -> str:
    return subprocess.run(["sha256sum", str(path)], capture_output=True, text=True, check=True).stdout.split()[0]


# Submitting -----------------------------------------------------------------------------------------------------------


def test_what_the_cluster_does_not_have_is_refused(bench: Bench, on_cluster: Cluster, tmp_path: Path) -> None:
    before = on_cluster.run("squeue", "--noheader", "--format=%i")
    code, _, err = bench("submit", "digits/linear", *QUICK, "--partition", "gpu")
    assert code == 2
    assert "--partition (=gpu) is not one of this cluster's, main, other: name one of them." in err
    code, _, err = bench("submit", "digits/linear", *QUICK, "--nodes", "8")
    assert code == 2
    assert "sbatch refuses train.sbatch (" in err
    code, _, err = bench("submit", "digits/linear", *QUICK, "--test-only")
    assert code == 0, err
    assert "nothing is queued" in err
    assert on_cluster.run("squeue", "--noheader", "--format=%i") == before


# Training -------------------------------------------------------------------------------------------------------------


def test_ten_runs_at_once_in_one_folder_the_same_run_again_and_a_report(
    bench: Bench, on_cluster: Cluster, tmp_path: Path
) -> None:
    recipes = ("digits/linear", "digits/mlp")
    settings = ("--data.loader", "torch", "--trainer.max_epochs", "2", *pace(5.0))
    code, out, err = bench("submit", *recipes, "--seeds", "0-4", *QUICK, *settings)
    assert code == 0, err
    ids = dict(line.split("\t") for line in out.splitlines())
    here = (*settings, "--trainer.accelerator", "cpu", "--trainer.devices", "1")
    same = ("fit", "--config", "digits/linear", "--seed_everything", "0", *here)
    on_cluster.until(lambda: any(tmp_path.glob("runs/digits/linear/*/.seed-0.lock")), "run that is trained", 240)
    code, _, err = bench(*same)
    assert code == 69
    assert "another process is training" in err
    code, out, _ = bench(*same, "--wait")
    assert code == 0
    assert "finished: digits/linear seed 0" in out
    for task in range(10):
        on_cluster.wait(f"{ids['train']}_{task}", seconds=400)
    on_cluster.wait(ids["report"])

    for recipe in recipes:
        assert (
            bench("fit", "--config", recipe, "--seed_everything", "0", *here, "--runs", str(tmp_path / "one"))[0] == 0
        )
        (one_of_ten,) = tmp_path.glob(f"runs/{recipe}/*/seed-0")
        (alone,) = tmp_path.glob(f"one/{recipe}/*/seed-0")
        assert_same(one_of_ten, alone)
    code, out, _ = bench("leaderboard", "--format", "json")
    rows = {row["recipe"]: row for row in json.loads(out) if row["dataset"] == "digits"}
    assert set(rows) == set(recipes)
    assert all(row["seeds"] == [0, 1, 2, 3, 4] for row in rows.values())
    (report,) = (tmp_path / "runs" / "jobs").glob("*/report.md")
    assert "10 of 10 runs are finished." in report.read_text()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in report.read_text().splitlines()]
    counts = {row[1].split()[0]: row[HEADERS.index("n")] for row in table if len(row) == len(HEADERS)}
    assert [counts[recipe] for recipe in recipes] == ["5", "5"]
    code, out, _ = bench("status", "--all", "--format", "json")
    assert [row["state"] for row in json.loads(out)] == ["finished"] * 10


def test_two_nodes_train_what_one_process_trains(bench: Bench, on_cluster: Cluster, tmp_path: Path) -> None:
    two, one = train_twice(bench, on_cluster, tmp_path, "digits/linear", epochs=2)
    assert two["errors"]["1crop"]["count"] == one["errors"]["1crop"]["count"] == 360


@pytest.mark.slow
def test_two_nodes_train_lenet5_as_one_process_does(
    data_root: Path, bench: Bench, on_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ILSVRC_BENCH_DATA", str(data_root))
    two, one = train_twice(bench, on_cluster, tmp_path, "mnist/lenet5", epochs=1)
    assert two["errors"]["1crop"]["count"] == one["errors"]["1crop"]["count"] == 10_000


def train_twice(
    bench: Bench, cluster: Cluster, folder: Path, recipe: str, epochs: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train on two nodes, and in this process; the weights must agree as far as the order of additions lets them."""
    settings = ("--trainer.max_epochs", str(epochs), "--data.loader", "torch")
    code, out, err = bench("submit", recipe, "--nodes", "2", "--no-report", *QUICK, *settings)
    assert code == 0, err
    found = cluster.wait(out.split()[1], seconds=500)
    assert found["NumNodes"] == "2"
    alone = ("--runs", str(folder / "alone"), "--trainer.accelerator", "cpu", "--trainer.devices", "1")
    assert bench("fit", "--config", recipe, "--seed_everything", "0", *settings, *alone)[0] == 0
    (ours,) = (folder / "runs" / recipe).rglob("seed-0/result.json")
    (theirs,) = (folder / "alone" / recipe).rglob("seed-0/result.json")
    two, one = json.loads(ours.read_text()), json.loads(theirs.read_text())
    assert (two["hardware"]["devices"], two["hardware"]["nodes"], one["hardware"]["devices"]) == (2, 2, 1)
    assert two["training"]["steps"] == one["training"]["steps"]
    trained, reference = weights(ours), weights(theirs)
    assert trained.keys() == reference.keys()
    for name, weight in reference.items():
        torch.testing.assert_close(trained[name], weight, rtol=1e-4, atol=1e-5)
    return two, one


def weights(result: Path) -> dict[str, torch.Tensor]:
    """The weights of the run that wrote this result."""
    checkpoint = torch.load(result.parent / "checkpoints" / "last.ckpt", weights_only=True)
    return dict(checkpoint["state_dict"])


# Killing --------------------------------------------------------------------------------------------------------------


KINDS = ("signal", "rank", "requeue", "node", "limit")
EPOCH_SECONDS = 0.5  # of a run that is killed: it must not have ended before


@dataclass(frozen=True)
class Kill:
    """How a start is ended: so many seconds after its first checkpoint, or, if early, after its ranks have started."""

    kind: str
    early: bool = False
    seconds: float = 0.0


def kill(cluster: Cluster, job: str, kind: str) -> None:
    """End this start of a running job of two nodes, in one of the ways in which that happens on a cluster."""
    if kind == "signal":
        cluster.run("scancel", "--signal=USR1", job)
    elif kind == "requeue":  # by an administrator
        cluster.run("scontrol", "requeue", job)
    elif kind == "rank":
        (rank,) = ranks(cluster, job, "node2")
        os.kill(rank, signal.SIGKILL)
    elif kind == "limit":  # which is then less than the signal's lead: it is sent when slurmctld looks next
        hours, minutes, _ = map(int, cluster.show(job)["RunTime"].split(":"))
        cluster.run("scontrol", "update", f"JobId={job}", f"TimeLimit={60 * hours + minutes + 3}")
    else:
        cluster.kill_node("node2")


def repair(cluster: Cluster, job: str, kind: str) -> None:
    """Undo what would end the next start too."""
    if kind == "limit":
        cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=30")
    if kind == "node":
        cluster.start_node("node2")


def ranks(cluster: Cluster, job: str, node: str) -> list[int]:
    """The processes on a node that train, of this job, once they take signals."""
    found = [pid for pid in cluster.processes(node) if f"SLURM_JOB_ID={job}\0".encode() in read(pid, "environ")]
    found = [pid for pid in found if b"\0-m\0benchmarks\0fit\0" in read(pid, "cmdline")]
    return [pid for pid in found if catches(pid, signal.SIGUSR1)]


def catches(pid: int, signum: int) -> bool:
    """Whether a process has a handler for a signal."""
    mask = re.search(rb"SigCgt:\s*(\w+)", read(pid, "status"))
    return mask is not None and bool(int(mask[1], 16) >> (signum - 1) & 1)


def read(pid: int, what: str) -> bytes:
    """A file of /proc; nothing where the process has ended."""
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes()
    except OSError:
        return b""


def train_through(bench: Bench, cluster: Cluster, folder: Path, kills: Sequence[Kill], seed: int) -> dict[str, Path]:
    """A run on two nodes that suffers all of `kills`, and the same outside Slurm, left alone; their folders."""
    limits = sum(one.kind == "limit" for one in kills)  # at which slurmctld looks twice a minute
    seconds = 5 * (len(kills) + 1) + sum(one.seconds for one in kills) + 35 * limits
    settings = ("--model.dropout", "0.3", "--trainer.max_epochs", str(int(seconds / EPOCH_SECONDS)))
    words = [
        "fit",
        "--config",
        "digits/mlp",
        "--seed_everything",
        str(seed),
        *settings,
        "--runs",
        str(folder / "alone"),
    ]
    words += ["--data.loader", "torch", "--data.workers", "1"]
    words += ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    alone = subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *words],
        cwd=jobs.CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        killed = kill_again_and_again(bench, cluster, folder / "killed", kills, (*settings, *pace(EPOCH_SECONDS)), seed)
        said, _ = alone.communicate(timeout=600)
    finally:
        alone.kill()
    assert alone.returncode == 0, said[-3000:]
    (reference,) = (folder / "alone").glob(f"digits/mlp/*/seed-{seed}")
    return {"killed": killed, "alone": reference}


def kill_again_and_again(
    bench: Bench, cluster: Cluster, runs: Path, kills: Sequence[Kill], settings: Sequence[str], seed: int
) -> Path:
    """Submit a run on two nodes, kill it, wait for it to come back, and so on to its end. Returns its folder.

    Whatever becomes of it, it is one run for W&B.
    """
    words = ("digits/mlp", "--seeds", f"{seed}-{seed}", "--nodes", "2", "--no-report", *QUICK, "--runs", str(runs))
    code, out, err = bench("submit", *words, *settings, "--checkpoint_minutes", "0.02", "--wandb", "offline")
    assert code == 0, err
    job = out.split()[1]
    ids = set()
    (record,) = runs.glob("jobs/*/submission.json")
    run = Path(json.loads(record.read_text())["runs"][0]["folder"])
    for start, one in enumerate(kills):
        before = step_of(run)
        if one.early:
            cluster.until(lambda: all(ranks(cluster, job, node) for node in cluster.nodes), "ranks", 240)
        else:
            cluster.until(lambda least=before: step_of(run) > least, f"step after {before}", 240)
        time.sleep(one.seconds)
        ids |= wandb_ids(run)
        kill(cluster, job, one.kind)
        cluster.until(lambda least=start: restarts(cluster, job) > least, f"requeue after {one}", 180)
        repair(cluster, job, one.kind)
        cluster.until(lambda: cluster.state(job) == "RUNNING", f"restart after {one}", 180)
    cluster.wait(job, seconds=600)
    ids |= wandb_ids(run)
    assert len(ids) == 1
    assert json.loads((run / "wandb.json").read_text())["attempts"] > 1
    return run


def wandb_ids(run: Path) -> set[str]:
    """The id of its W&B run, once it has one."""
    file = run / "wandb.json"
    return {json.loads(file.read_text())["id"]} if file.exists() else set()


def restarts(cluster: Cluster, job: str) -> int:
    """How often a job was requeued."""
    return int(cluster.show(job)["Restarts"])


def step_of(run: Path) -> int:
    """The step of the run's last checkpoint; 0 before there is one."""
    try:
        return int(json.loads((run / "state.json").read_text())["step"])
    except (OSError, KeyError, ValueError):
        return 0


def steps_of(run: Path) -> list[tuple[str, ...]]:
    """Of steps.csv what does not depend on the clock."""
    rows = csv.DictReader(io.StringIO((run / "steps.csv").read_text()))
    return [tuple(row[name] for name in ("step", "epoch", "lr", "step/loss", "step/top1_error")) for row in rows]


def assert_same(killed: Path, alone: Path) -> None:
    """Weights and metrics are the same to the last bit, and every epoch and every logged step is there once."""
    steps = [steps_of(run) for run in (killed, alone)]
    assert len({step for step, *_ in steps[1]}) == len(steps[1]) > 1
    assert steps[0] == steps[1]
    rows = [list(csv.DictReader(io.StringIO((run / "metrics.csv").read_text()))) for run in (killed, alone)]
    assert [int(row["epoch"]) for row in rows[0]] == list(range(len(rows[1])))
    measured = [[{key: row[key] for key in row if not key.startswith("perf/")} for row in one] for one in rows]
    assert measured[0] == measured[1]
    trained, reference = weights(killed / "result.json"), weights(alone / "result.json")
    assert trained.keys() == reference.keys()
    assert all(torch.equal(trained[name], weight) for name, weight in reference.items())
    errors = [json.loads((run / "result.json").read_text())["errors"] for run in (killed, alone)]
    assert errors[0] == errors[1]
    assert json.loads((killed / "state.json").read_text())["status"] == "finished"


def test_a_run_killed_in_every_way_ends_as_one_that_was_left_alone(
    bench: Bench, on_cluster: Cluster, tmp_path: Path
) -> None:
    kills = [Kill("signal"), Kill("rank"), Kill("requeue", early=True), Kill("node")]
    found = train_through(bench, on_cluster, tmp_path, kills, seed=0)
    assert_same(found["killed"], found["alone"])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_twenty_kills_at_random(bench: Bench, on_cluster: Cluster, tmp_path: Path, seed: int) -> None:
    """Five of each of four runs, at any moment from Python's first to seconds after a checkpoint."""
    generator = random.Random(seed)
    kinds = generator.choices(KINDS, k=5)
    kills = [Kill(kind, generator.random() < 0.4, round(generator.uniform(0, 5), 2)) for kind in kinds]
    found = train_through(bench, on_cluster, tmp_path, kills, seed)
    assert_same(found["killed"], found["alone"])
