"""Runs at W&B, through its real client and a test double of its server: what arrives, once, and what never matters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from wandb_double import WandbDouble

from benchmarks import callbacks, results, wandb_mode, wandb_run
from benchmarks.fit import begin
from benchmarks.runs import Run, RunError
from benchmarks.tables import history, merged, read_rows
from benchmarks.wandb_mode import Decision, decide
from benchmarks.wandb_run import identifier, nest, read_record, summary_of

# A client's process that was killed is waited for by nobody, which Python says when it likes.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

Bench = Callable[..., tuple[int, str, str]]

CHECKOUT = Path(__file__).resolve().parent.parent
COMMAND = ("fit", "--config", "digits/mlp", "--seed_everything", "0", "--data.loader", "torch")
COMMAND += ("--trainer.max_epochs", "2", "--trainer.log_every_n_steps", "20", "--trainer.accelerator", "cpu")
STEPS = [20, 40, 44, 60, 80, 88]  # 44 steps an epoch: every 20th, and the last of each epoch


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandbDouble]:
    """A server that the client of this process talks to, and no key or netrc of the user's."""
    import wandb

    with WandbDouble() as double:
        for name in ("WANDB_MODE", "WANDB_ENTITY", "WANDB_PROJECT"):
            monkeypatch.delenv(name, raising=False)
        for name, value in double.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("WANDB_SILENT", "true")
        monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setattr(wandb_run, "OPENING", 3.0)
        monkeypatch.setattr(wandb_run, "FINISHING", 3.0)
        monkeypatch.setattr(wandb_mode, "PATIENCE", 0.5)
        wandb.teardown()  # its settings are read from the environment once
        yield double
        wandb.teardown()


def the_run(root: Path) -> Run:
    (folder,) = root.glob("digits/mlp/*/seed-0")
    return Run(folder)


def arrived(server: WandbDouble, run: Run) -> list[tuple[int, dict[str, Any]]]:
    """What the server has of a run's rows, without what the client adds and without pictures."""
    own = ("_step", "_runtime", "_timestamp", "_wandb")
    rows = server.run(read_record(run)["id"]).history()
    rows = [row for row in rows if not any(key.startswith("figures/") for key in row)]
    return [(row["_step"], {key: value for key, value in row.items() if key not in own}) for row in rows]


def pictures(server: WandbDouble, run: Run) -> list[set[str]]:
    """The names of the pictures in each row that has any, whose files the server has as they are on disk."""
    sent, found = server.run(read_record(run)["id"]), []
    for row in sent.history():
        images = {key.removeprefix("figures/"): value for key, value in row.items() if key.startswith("figures/")}
        for name, value in images.items():
            assert sent.files[value["path"]] == (run.figures / f"{name}.png").read_bytes()
        found += [set(images)] if images else []
    return found


def on_disk(run: Run) -> list[tuple[int, dict[str, Any]]]:
    return [(step, values) for step, _, values in history(run)]


# While it trains ------------------------------------------------------------------------------------------------------


def test_online_run_arrives_whole(bench: Bench, tmp_path: Path, server: WandbDouble) -> None:
    status, out, err = bench(*COMMAND, "--pictures", "true")
    assert status == 0, err
    run = the_run(tmp_path / "runs")
    assert pictures(server, run) == [{"confusion", "mistakes"}]  # this network has no convolution
    record, result = read_record(run), results.read_result(run.result)
    assert f"W&B: {server.url}/team/ilsvrc-bench/runs/{record['id']}" in out
    assert arrived(server, run) == on_disk(run)
    assert [step for step, _ in arrived(server, run)] == STEPS
    assert {"train/loss", "val/top1_error", "perf/images_per_s", "step/loss", "lr", "epoch"} <= set(
        arrived(server, run)[-1][1]
    )

    sent = server.run(record["id"])
    assert (sent.project, sent.state, sent.starts) == ("ilsvrc-bench", "finished", 1)
    assert sent.fields["groupName"] == "digits/mlp"
    assert sent.fields["jobType"] == "train"
    assert sent.fields["tags"] == ["digits", "MLP"]
    config, summary = sent.config(), sent.summary()
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.05
    assert (config["recipe"], config["seed"], config["attempt"]) == ("digits/mlp", 0, 1)
    assert config["overrides"] == ["trainer.max_epochs=2"]
    assert "root" not in config["data"]["init_args"]
    assert summary["error"] == summary["top1_error_1crop"] == result.errors["1crop"]["top1_error"]
    assert summary["images_per_s"] == result.throughput["images_per_s"]
    assert all(key.isidentifier() for key in summary_of(result))
    assert sent.files["result.json"] == run.result.read_bytes()
    assert {"recipe.yaml", "metrics.csv"} <= set(sent.files)
    assert result.wandb_id == f"team/ilsvrc-bench/{record['id']}"
    assert record["sent"]["finished"] == result.finished
    assert server.unanswered == []

    before = len(server.requests)  # nothing is left to send, which is known without asking
    status, out, _ = bench("sync", "--dry-run")
    assert (status, "is there" in out) == (0, True)
    assert len(server.requests) == before


def test_run_that_fails_goes_on_as_the_same_run(
    bench: Bench, tmp_path: Path, server: WandbDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 70:
            raise RuntimeError("a node was lost")

    with monkeypatch.context() as patched:
        patched.setattr(callbacks.EpochSeed, "on_train_batch_start", fail, raising=False)
        with pytest.raises(RuntimeError, match="a node was lost"):
            bench(*COMMAND)
    run = the_run(tmp_path / "runs")
    sent = server.run(read_record(run)["id"])
    assert [step for step, _ in arrived(server, run)] == [20, 40, 44, 60]  # 60 is after the checkpoint, at 44
    assert sent.state == "failed"
    assert sent.summary()["status"] == "failed"
    first = arrived(server, run)

    assert bench(*COMMAND)[0] == 0
    assert [step for step, _ in arrived(server, run)] == STEPS
    assert arrived(server, run)[:4] == first
    assert sent.state == "finished"
    assert (sent.starts, sent.config()["attempt"], read_record(run)["attempts"]) == (2, 2, 2)
    assert len(server.runs) == 1


def test_server_that_fails_in_mid_run_costs_nothing_but_a_later_sync(
    bench: Bench, tmp_path: Path, server: WandbDouble
) -> None:
    server.fail("file_stream", 500)
    status, out, err = bench(*COMMAND)
    assert status == 0, err
    assert "done: digits/mlp seed 0" in out
    assert (
        "W&B did not get everything (it did not take the last rows within 3 s): the run's files have it all, and "
        "`python -m benchmarks sync` sends it." in out
    )
    run = the_run(tmp_path / "runs")
    assert "sent" not in read_record(run)

    status, _, err = bench("sync")
    assert status == 1
    assert "seed-0: not sent: W&B did not get everything" in err
    assert "sent" not in read_record(run)
    server.heal()
    status, out, err = bench("sync")
    assert status == 0, err
    assert arrived(server, run) == on_disk(run)
    assert len(server.runs) == 1


@pytest.mark.parametrize("what", ["hang", "close", "its own process"])
def test_whatever_is_lost_in_mid_run_the_run_ends_as_ever(
    bench: Bench, tmp_path: Path, server: WandbDouble, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    epoch = callbacks.EpochSeed.on_train_epoch_start

    def lose(self: Any, trainer: Any, *others: Any) -> None:
        epoch(self, trainer, *others)
        if trainer.current_epoch == 1:
            assert wandb_run.read_record(the_run(tmp_path / "runs"))["url"]
            if what == "its own process":
                for pid in clients():
                    os.kill(pid, signal.SIGKILL)
            else:
                server.fail("file_stream", what)
                server.fail("graphql", what)

    with monkeypatch.context() as patched:
        patched.setattr(callbacks.EpochSeed, "on_train_epoch_start", lose)
        status, out, err = bench(*COMMAND)
    assert status == 0, err
    assert "done: digits/mlp seed 0" in out
    assert ": the run's files have it all, and `python -m benchmarks sync` sends it." in out
    run = the_run(tmp_path / "runs")
    assert [step for step, _ in on_disk(run)] == STEPS
    server.heal()
    status, _, err = bench("sync")  # in this process, in which a client was lost
    assert status == 0, err
    assert arrived(server, run) == on_disk(run)
    assert len(server.runs) == 1


def clients() -> list[int]:
    """Processes of W&B's client that this process has started."""
    found = subprocess.run(["pgrep", "-f", "-P", str(os.getpid()), "wandb-core"], capture_output=True, text=True)
    return [int(word) for word in found.stdout.split()]


# Afterwards -----------------------------------------------------------------------------------------------------------


def test_offline_runs_are_sent_later_and_once(
    bench: Bench, tmp_path: Path, server: WandbDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    status, out, err = bench(*COMMAND, "--pictures", "true")
    assert status == 0, err
    assert "W&B: offline, as asked; `python -m benchmarks sync` can send it later" in out
    run = the_run(tmp_path / "runs")
    assert bench(*COMMAND[:4], "1", *COMMAND[5:], "--wandb", "disabled")[0] == 0
    assert server.requests == []
    assert results.read_result(run.result).wandb_id == read_record(run)["id"]

    status, out, _ = bench("sync", "--dry-run")
    assert status == 0
    assert "seed-0: would be sent, 6 rows and its result" in out
    assert "seed-1: left out, W&B was disabled for it" in out
    assert server.requests == []

    server.fail("file_stream", 404)  # the client takes that for done
    status, _, err = bench("sync")
    assert status == 1
    assert "seed-0: not sent: W&B did not get everything" in err
    server.heal()

    status, out, err = bench("sync")
    assert status == 0, err
    assert "seed-0: sent, 6 rows and its result, http://" in out
    sent = server.run(read_record(run)["id"])
    assert arrived(server, run) == on_disk(run)
    trained = [at for _, at, _ in history(run)]
    assert [row["_timestamp"] for row in sent.history()[: len(trained)]] == trained
    assert sent.state == "finished"

    lines, before = dict(sent.streams["wandb-history.jsonl"]), len(server.requests)
    assert bench("sync")[0] == 0
    assert (sent.streams["wandb-history.jsonl"], len(server.requests)) == (lines, before + 1)  # whether it is there
    assert pictures(server, run) == [{"confusion", "mistakes"}]
    record = read_record(run)
    del record["sent"]  # as if killed before it was noted: the server is asked, and sent nothing
    wandb_run.write_record(run, record)
    assert bench("sync", str(run.folder))[0] == 0
    assert (sent.streams["wandb-history.jsonl"], sent.starts) == (lines, 1)
    assert read_record(run)["sent"]["finished"]
    assert server.unanswered == []


def test_run_after_one_that_was_lost_is_not_taken_for_it(
    bench: Bench, tmp_path: Path, server: WandbDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    for seed in ("0", "1"):
        assert bench(*COMMAND[:4], seed, *COMMAND[5:])[0] == 0
    log = wandb.Run.log

    def lose(self: Any, values: Any, step: int) -> None:
        if "-s0-" in self.id and step > 40:
            raise ConnectionError("the client is gone")
        log(self, values, step=step)

    with monkeypatch.context() as patched:
        patched.setattr(wandb.Run, "log", lose)
        status, out, err = bench("sync")
    assert status == 1
    assert "seed-0: not sent: W&B took no more rows (the client is gone)" in err
    assert "seed-1: sent, 6 rows and its result" in out
    first, second = (Run(next(tmp_path.glob(f"runs/digits/mlp/*/seed-{seed}"))) for seed in (0, 1))
    assert arrived(server, second) == on_disk(second)
    assert bench("sync")[0] == 0
    assert arrived(server, first) == on_disk(first)
    assert len(server.runs) == 2


def test_sync_without_key_server_or_runs(
    bench: Bench, tmp_path: Path, server: WandbDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, _, err = bench("sync", str(tmp_path / "nowhere"))
    assert status == 2
    assert "there is no folder" in err
    (tmp_path / "runs/digits/mlp/abc/seed-0").mkdir(parents=True)
    status, out, _ = bench("sync")
    assert (status, "nothing to send yet" in out) == (0, True)
    (tmp_path / "runs/digits/mlp/abc/seed-0/result.json").write_text("{")
    status, _, err = bench("sync")
    assert status == 1
    assert "seed-0: not sent:" in err
    monkeypatch.chdir(tmp_path / "runs/digits/mlp/abc/seed-0")
    assert "1 runs, 1 not sent." in bench("sync", ".")[1]
    odd = tmp_path / "runs/digits/mlp/aaa/seed-0"
    odd.mkdir(parents=True)
    (odd / "metrics.csv").write_text("other,header\n1,2,3\n")
    status, out, err = bench("sync", str(tmp_path / "runs"))
    assert (status, "2 runs, 2 not sent." in out) == (1, True)
    assert "aaa/seed-0: not sent: its files cannot be made sense of (RunError: " in err
    assert "metrics.csv is no table of a run (epoch (=None) of row 1 must be a whole number): restore it, or" in err
    server.fail("graphql", 503)
    status, _, err = bench("sync")
    assert status == 2
    assert f"W&B: {server.url} answers 503. Nothing was sent." in err


# Whether it is sent at all --------------------------------------------------------------------------------------------


def test_mode_is_decided_within_seconds(server: WandbDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    assert decide(None).mode == decide("online").mode == "online"
    for what, why in (
        ("hang", "does not answer within"),
        (500, "answers 500"),
        (401, "refuses the key"),
        ("close", ""),
    ):
        server.fail("graphql", what)
        before = time.monotonic()
        found = decide(None)
        assert time.monotonic() - before < 2.5
        assert (found.mode, found.loud) == ("offline", True)
        assert why in found.why
        assert server.url in found.why
    server.heal()
    assert decide("offline").mode == "offline"
    assert decide("disabled").loud is False
    for word, mode in (("auto", "online"), ("dryrun", "offline"), ("disabled", "disabled")):
        monkeypatch.setenv("WANDB_MODE", word)
        assert decide(None).mode == mode
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(RunError, match=r"WANDB_MODE \(=sometimes\) must be auto, online, offline or disabled"):
        decide(None)


def test_without_a_key_nothing_is_asked_and_nothing_said(server: WandbDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    found = decide(None)
    assert (found.mode, found.loud) == ("offline", False)
    assert decide("online").loud
    assert server.requests == []


def test_home_that_is_closed_or_unknown_has_no_key(server: WandbDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    for error in (PermissionError(13, "Permission denied"), RuntimeError("Could not determine home directory.")):

        def fail(self: Path, error: Exception = error) -> Path:
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(Path, "expanduser", fail)
            assert decide(None).mode == "offline"


def test_bad_mode_is_refused_before_anything_is_moved(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        status, _, err = bench(*COMMAND, "--again")
        assert (status, "WANDB_MODE (=sometimes) must be" in err) == (2, True)
    assert not list(tmp_path.glob("runs/digits/mlp/*/seed-0*"))


def test_record_that_cannot_be_kept_ends_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path / "seed-0")
    run.folder.mkdir()
    run.wandb.write_text('{"attempts": "x"}')
    assert begin(run, {}, Decision("online", "")).client is None
    assert "W&B: gets nothing of this run" in capsys.readouterr().out


def test_key_that_the_client_refuses(server: WandbDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", " with blanks ")
    found = decide(None)
    assert (found.mode, found.loud) == ("offline", True)
    assert "its client says: " in found.why or "refuses the key" in found.why


def test_address_that_nobody_has_is_no_reason_to_wait() -> None:
    before = time.monotonic()
    assert "cannot be reached" in wandb_mode.fault("http://127.0.0.1:9", "key")
    assert time.monotonic() - before < 3


# Parts ----------------------------------------------------------------------------------------------------------------


def test_tables_are_joined_by_step(tmp_path: Path) -> None:
    steps = [
        {"step": "2", "epoch": "0", "time": "10.5", "lr": "0.2", "step/loss": ""},
        {"step": "4", "epoch": "0", "lr": "0.1"},
    ]
    epochs = [{"epoch": "0", "step": "4", "lr": "0.2", "val/top1_error": "9"}]
    joined = merged(steps, epochs)
    assert joined == [
        (2, 10.5, {"epoch": 0, "lr": 0.2}),
        (4, None, {"epoch": 0, "lr": 0.2, "val/top1_error": 9}),
    ]
    table = tmp_path / "steps.csv"
    assert read_rows(table) == []
    table.write_text("step,epoch\n2,0\n4,")  # killed while it wrote
    assert read_rows(table) == [{"step": "2", "epoch": "0"}]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"epoch,step\n0,\xff\n", "'utf-8' codec can't decode byte 0xff in position 13: invalid start byte"),
        (b"epoch,step\n0,4\n\0\0\0\n", "it has zero bytes"),
        (b"epoch,step\n0,4\nfoo,1\n", "epoch (='foo') of row 2 must be a whole number"),
        (b"epoch,step\n0\n", "step (=None) of row 1 must be a whole number"),
        (b"epoch,step\n0," + b"9" * 200_000 + b"\n", "field larger than field limit (131072)"),
    ],
)
def test_damaged_table_is_named(tmp_path: Path, content: bytes, why: str) -> None:
    table = tmp_path / "metrics.csv"
    table.write_bytes(content)
    with pytest.raises(RunError) as refusal:
        read_rows(table)
    assert str(refusal.value) == f"{table} is no table of a run ({why}): restore it, or move it away."


def test_names(tmp_path: Path) -> None:
    assert nest({"a.b": 1, "a.c.d": 2, "e": {}}) == {"a": {"b": 1, "c": {"d": 2}}, "e": {}}
    assert identifier("ms-dense-256-384+10crop") == "ms_dense_256_384_10crop"
    name = wandb_run.new_id("custom/my:net", "0123", 4)
    assert name.startswith("custom-my-net-0123-s4-")
    assert wandb_run.new_id("custom/my:net", "0123", 4) != name


def test_first_claim_is_the_one_that_tables_sort_by() -> None:
    path = next((CHECKOUT / "benchmarks/results/mnist/lenet5").glob("seed-*.json"))
    result = results.read_result(path)
    found = summary_of(result)
    assert found["error"] == result.errors["1crop"]["top1_error"]
    assert found["published"] == 0.95
    assert found["delta"] == pytest.approx(found["error"] - 0.95)
    assert found["verdict"] == found["verdict_top1_error_1crop"] == "reproduced"
    assert all(key.isidentifier() for key in found)
    assert (
        summary_of(results.Result(**{**vars(result), "overrides": {"trainer.max_epochs": 1}}))["verdict"]
        == "changed recipe"
    )


# Processes that are killed --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["online", "offline"])
def test_run_killed_without_warning_arrives_once(tmp_path: Path, server: WandbDouble, mode: str) -> None:
    """SIGKILL some steps after a checkpoint, and again later; W&B gets every step of the run that ended, once."""
    environment = {**os.environ, "WANDB_MODE": mode, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks", *COMMAND, "--trainer.max_epochs", "8"]
    for least in (60, 190):  # steps after which it is killed
        process = subprocess.Popen(command, cwd=CHECKOUT, env=environment)
        while not any(int(row["step"]) > least for path in tmp_path.rglob("steps.csv") for row in read_rows(path)):
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, cwd=CHECKOUT, env=environment, check=True)
    run = the_run(tmp_path / "runs")
    if mode == "offline":
        assert server.requests == []
        subprocess.run([sys.executable, "-m", "benchmarks", "sync"], cwd=CHECKOUT, env=environment, check=True)
    assert [step for step, _ in arrived(server, run)] == sorted({*range(20, 353, 20), *range(44, 353, 44)})
    deterministic = ("step/loss", "step/top1_error", "train/loss", "val/top1_error", "lr", "epoch")
    ours, theirs = (
        [(step, {k: row[k] for k in deterministic if k in row}) for step, row in rows]
        for rows in (arrived(server, run), on_disk(run))
    )
    assert ours == theirs
    assert len(server.runs) == 1
    assert read_record(run)["attempts"] == 3
    assert read_record(run)["sent"]
