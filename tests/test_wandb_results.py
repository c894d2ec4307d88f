"""Results read back from W&B by the real client, from the test double, and merged with those that are here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks.page_data import wandb_url
from benchmarks.results import COMMITTED, Result, read_result, write_result
from benchmarks.wandb_results import folder_of
from tests.test_leaderboard import IDENTITIES
from tests.test_results import make
from tests.wandb_double import StoredRun, WandbDouble, for_this_process

Bench = Callable[..., tuple[int, str, str]]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbDouble]:
    """A W&B server, which the client in this process talks to."""
    with for_this_process(monkeypatch) as double:
        yield double


def lenet(seed: int, error: float, finished: str = "2026-01-01T00:00:00Z", **changes: object) -> Result:
    errors = {"top1_error": error, "top5_error": 0.0, "wrong1": round(100 * error), "wrong5": 0, "count": 10_000}
    return make(
        recipe="mnist/lenet5",
        identity=IDENTITIES["mnist/lenet5"],
        seed=seed,
        errors={"1crop": errors},
        finished=finished,
        **changes,
    )


def store(server: WandbDouble, name: str, result: Result | None, file: bytes | None = None) -> StoredRun:
    """A run as the suite sends it: configuration, and of a finished one the summary and its files."""
    run = StoredRun("team", "p", name)
    config = {"recipe": {"value": "mnist/lenet5"}} if not name.startswith("foreign") else {"lr": {"value": 1}}
    run.fields = {"displayName": name, "config": json.dumps(config)}
    if result is not None:
        summary = {"finished": result.finished, "status": "finished"}
        run.streams["wandb-summary.json"] = {0: json.dumps(summary)}
        run.files["result.json"] = json.dumps(asdict(result)).encode() if file is None else file
        run.files["metrics.csv"] = b"epoch,step\n0,1\n"
    server.runs["team", "p", name] = run
    return run


def seeds(out: str) -> dict[int, dict[str, object]]:
    return {row["seed"]: row for row in json.loads(out) if row["recipe"] == "mnist/lenet5"}


def test_runs_of_a_team_are_merged_with_those_here_without_duplicates(
    bench: Bench, server: WandbDouble, tmp_path: Path
) -> None:
    here = tmp_path / "runs" / "mnist" / "lenet5" / "x"
    for result in (lenet(10, 1.0), lenet(11, 2.0), lenet(12, 3.0)):
        (here / f"seed-{result.seed}").mkdir(parents=True)
        write_result(here / f"seed-{result.seed}" / "result.json", result)
    store(server, "a", lenet(10, 1.0))  # the same
    store(server, "b", lenet(11, 2.5, "2026-02-01T00:00:00Z"))  # newer
    store(server, "c", lenet(12, 3.5, "2025-12-01T00:00:00Z"))  # older
    store(server, "d", lenet(13, 4.0, wandb_id="d"))  # only there
    store(server, "unfinished", None)
    store(server, "foreign", lenet(14, 9.0))
    store(server, "broken", lenet(15, 9.0), b'{"schema": 1, ')
    no_file = store(server, "unsent", lenet(16, 9.0))
    no_file.files.clear()

    arguments = ("leaderboard", "--by-run", "--format", "json", "--from-wandb", "team/p")
    status, out, err = bench(*arguments)
    assert status == 0, err
    found = {seed: row for seed, row in seeds(out).items() if seed >= 10}
    assert {seed: row["top1_error"] for seed, row in found.items()} == {10: 1.0, 11: 2.5, 12: 3.0, 13: 4.0}
    assert found[13]["wandb_id"] == "team/p/d"
    cache = tmp_path / "cache" / "wandb" / "team" / "p"
    assert err.splitlines() == [
        "skipped: team/p/broken: result.json is not a result file (Expecting property name enclosed in double quotes: "
        "line 1 column 15 (char 14)): remove it; `fit` then writes it again",
        "skipped: team/p/unsent is finished, but did not send its result.json: give `python -m benchmarks sync` where "
        "it ran",
        "team/p: 1 run is not finished",
        "team/p: 1 run is none of this suite's",
        f"skipped: {here}/seed-11/result.json (finished 2026-01-01T00:00:00Z) is of the same run as "
        f"{cache}/b/seed-11/result.json (2026-02-01T00:00:00Z), which is newer",
        f"skipped: {cache}/c/seed-12/result.json (finished 2025-12-01T00:00:00Z) is of the same run as "
        f"{here}/seed-12/result.json (2026-01-01T00:00:00Z), which is newer",
    ]
    assert (cache / "d" / "seed-13" / "metrics.csv").read_bytes() == b"epoch,step\n0,1\n"
    assert server.unanswered == []

    downloads = server.count("download")
    store(server, "d", lenet(13, 4.5, "2026-03-01T00:00:00Z"))  # trained anew
    del server.runs["team", "p", "b"]
    status, out, _ = bench(*arguments)
    found = {seed: row for seed, row in seeds(out).items() if seed >= 10}
    assert {seed: row["top1_error"] for seed, row in found.items()} == {10: 1.0, 11: 2.0, 12: 3.0, 13: 4.5}
    assert server.count("download") == downloads + 2 + 2  # d anew, and what is broken is asked for again


def test_empty_list_does_not_empty_the_cache(
    bench: Bench, server: WandbDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("leaderboard", "--format", "json", "--committed", "--from-wandb", "team/p")
    store(server, "a", lenet(20, 1.0))
    bench(*arguments)
    folder = folder_of("team/p")
    (folder / ".DS_Store").write_text("")
    assert bench(*arguments)[0] == 0
    with monkeypatch.context() as patched:
        patched.setattr("benchmarks.wandb_results.list_runs", lambda project: [])
        status, _, err = bench(*arguments)
    assert (status, "W&B lists no runs" in err, (folder / "a").is_dir()) == (0, True, True)


def test_what_the_team_ran_counts_in_the_table(bench: Bench, server: WandbDouble) -> None:
    for seed in range(20, 23):
        store(server, f"s{seed}", lenet(seed, 1.0))
    status, out, _ = bench("leaderboard", "--format", "json", "--committed", "--from-wandb", "team/p")
    (row,) = [row for row in json.loads(out) if row["recipe"] == "mnist/lenet5"]
    assert (status, row["seeds"]) == (0, [0, 1, 2, 3, 4, 20, 21, 22])


def test_page_links_to_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    assert wandb_url(lenet(0, 1.0, wandb_id="team/p/d")) == "https://wandb.ai/team/p/runs/d"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.our-lab.org/")
    assert wandb_url(lenet(0, 1.0, wandb_id="team/p/d")) == "https://wandb.our-lab.org/team/p/runs/d"
    assert wandb_url(lenet(0, 1.0, wandb_id="d")) == ""
    assert wandb_url(lenet(0, 1.0, wandb_id='team/p/"><script>')) == ""


@pytest.mark.parametrize("project", ["p", "team/p/run", "team/", "../p", "team/.."])
def test_project_has_an_entity(bench: Bench, project: str) -> None:
    status, _, err = bench("leaderboard", "--from-wandb", project)
    assert status == 2
    assert err == f"error: the W&B project (={project}) must be ENTITY/PROJECT, such as my-team/ilsvrc-bench.\n"


def test_project_that_does_not_exist(bench: Bench, server: WandbDouble) -> None:
    server.answers["Runs"] = lambda variables: {"project": None}
    status, out, err = bench("leaderboard", "--from-wandb", "team/nothing")
    assert (status, out) == (2, "")
    assert err.startswith("error: W&B's project team/nothing cannot be read (")
    assert err.endswith("correct its name, or ask its team for access.\n")


def test_no_key_and_no_server(bench: Bench, server: WandbDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    server.keys.clear()
    status, _, err = bench("leaderboard", "--from-wandb", "team/p")
    assert status == 2
    assert err == (
        f"error: W&B: {server.url} refuses the key (`wandb login --relogin` asks for another). Nothing of team/p was "
        "read.\n"
    )


def test_what_sync_sends_is_read_back_to_the_last_digit(
    bench: Bench, server: WandbDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = COMMITTED / "cifar10" / "resnet20_short_without_norm" / "seed-0"
    result = read_result(source.with_suffix(".json"))
    folder = tmp_path / "runs" / result.recipe / result.identity / "seed-0"
    folder.mkdir(parents=True)
    (folder / "result.json").write_bytes(source.with_suffix(".json").read_bytes())
    (folder / "metrics.csv").write_bytes(source.with_suffix(".csv").read_bytes())
    status, out, err = bench("sync", tmp_path / "runs")
    assert status == 0, err
    shutil.rmtree(tmp_path / "runs")
    monkeypatch.setattr("benchmarks.leaderboard.COMMITTED", tmp_path / "none")
    status, out, err = bench("leaderboard", "--by-run", "--format", "json", "--from-wandb", "team/ilsvrc-bench")
    assert (status, err) == (0, "")
    (row,) = json.loads(out)
    (there,) = (tmp_path / "cache" / "wandb" / "team" / "ilsvrc-bench").glob("*/seed-0")
    assert read_result(there / "result.json") == replace(result, wandb_id=row["wandb_id"])
    assert row["wandb_id"].startswith("team/ilsvrc-bench/cifar10-resnet20_short_without_norm-")
    assert (there / "metrics.csv").read_bytes() == source.with_suffix(".csv").read_bytes()
    assert server.unanswered == []
