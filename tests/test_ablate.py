"""The command: checks before it trains, trains what is missing, takes divergence as an outcome, shows what is there."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import ablate, callbacks, fit
from benchmarks.ablate import changed_settings, epochs_to
from benchmarks.callbacks import EpochTable
from benchmarks.grid import Number, load_grid
from benchmarks.grid_table import (
    DIVERGED,
    NOT_REACHED,
    TO_DO,
    Outcome,
    as_csv,
    as_json,
    as_markdown,
    as_table,
    build_report,
)
from benchmarks.recipe import find_recipe, load_recipe
from benchmarks.results import read_result, write_result
from benchmarks.runs import Run
from benchmarks.suite_cli import SuiteCLI
from tests.test_results import make

Bench = Callable[..., tuple[int, str, str]]

SMALL: dict[str, Any] = {
    "paper": "Somebody 2015, A Paper",
    "url": "https://example.org",
    "question": "Is slower worse?",
    "recipe": "digits/linear",
    "settings": {"trainer.max_epochs": 1},
    "axes": {"rate": {"fast": {}, "slow": {"model.optimizer.lr": 0.001}}},
    "seeds": [0, 1],
    "measure": "error",
    "protocol": "1crop",
    "metric": "top1_error",
    "published": {"where": "Table 1", "fast": 8.0},
    "contrasts": [{"of": "slow minus fast", "published": 20, "where": "Table 1"}],
}

QUICK = ("--data.loader", "torch")


def write(folder: Path, **changes: Any) -> Path:
    """A grid file with `SMALL` and changes, a None taking the key away."""
    path = folder / "small.yaml"
    content = {key: value for key, value in {**SMALL, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def table(bench: Bench, path: Path, *options: str) -> dict[str, Any]:
    status, out, err = bench("ablate", path, "--table", "--format", "json", *options)
    assert status == 0, err
    return json.loads(out)


def test_trains_what_is_missing_and_compares(bench: Bench, tmp_path: Path) -> None:
    path = write(tmp_path, seeds=[0])
    status, out, err = bench("ablate", path, *QUICK)
    assert status == 0, err
    assert "2 cells, 1 seeds each: 2 runs, 2 to do." in out
    assert "run 2 of 2: slow, seed 0" in out
    results = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").rglob("result.json")}
    fast, slow = sorted((read_result(file) for file in results), key=lambda result: len(result.overrides))
    assert fast.overrides == {"trainer.max_epochs": 1}
    assert slow.overrides == {"trainer.max_epochs": 1, "model.init_args.optimizer.init_args.lr": 0.001}

    status, out, err = bench("ablate", path, "--format", "json", *QUICK)
    assert status == 0
    assert "2 runs, 0 to do." in err
    assert {file: file.stat().st_mtime_ns for file in results} == results
    found = json.loads(out)
    errors = [result.errors["1crop"]["top1_error"] for result in (fast, slow)]
    assert [cell["value"] for cell in found["cells"]] == errors
    assert [cell["seeds"] for cell in found["cells"]] == [[0], [0]]
    assert found["cells"][0]["published"] == "8.00"
    assert found["contrasts"][0]["value"] == pytest.approx(errors[1] - errors[0])
    assert (found["contrasts"][0]["low"], found["contrasts"][0]["verdict"]) == (None, "not proven")


def test_hardware_is_no_other_study_but_a_setting_is(tmp_path: Path) -> None:
    grid = load_grid(write(tmp_path))
    plain, on_hardware, changed = (
        ablate.parse_cell(grid, grid.cells[0], settings).identity
        for settings in ([], ["--trainer.accelerator", "cpu", *QUICK], ["--data.batch_size", "64"])
    )
    assert plain == on_hardware != changed
    outcomes = {"fast": values(7.0, 9.0), "slow": values(30.0, 32.0)}
    found = build_report(grid, outcomes, changed="--data.batch_size 64")
    assert [cell.published for cell in found.cells] == [None, None]
    assert (found.contrasts[0].published, found.contrasts[0].verdict) == (None, "proven higher")
    assert "Changed in every cell: --data.batch_size 64. The paper's numbers do not apply." in as_table(found)


def test_changed_settings_leave_out_hardware() -> None:
    settings = ["--data.loader=torch", "--trainer.max_epochs", "1", "--trainer.devices", "1", "--model.norm=none"]
    assert changed_settings(settings) == "--trainer.max_epochs 1 --model.norm=none"
    assert changed_settings(["--trainer.logger.project", "x", "--data.init_args.root", "/d"]) == ""


def test_divergence_is_an_outcome(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = {"rate": {"mad": {"model.optimizer.lr": 1.0e38}, "fast": {}}}
    path = write(tmp_path, axes=axes, seeds=[0], published=None, contrasts=[{"of": "mad minus fast"}])
    variants = ablate.check_cells(load_grid(path), list(QUICK))
    monkeypatch.setattr(ablate, "check_cells", lambda *_: variants)
    status, out, err = bench("ablate", path, *QUICK)
    assert status == 0, err
    assert "did not train: the loss is not finite at step " in out
    assert "run 2 of 2: fast, seed 0" in out  # the study went on
    record = variants[0].run(tmp_path / "runs", 0).diverged
    assert "is not finite" in json.loads(record.read_text())["why"]
    found = table(bench, path)
    assert [cell["value"] is None for cell in found["cells"]] == [True, False]
    assert found["cells"][0]["note"] == "1 of 1 did not train"
    assert found["contrasts"][0]["verdict"] == "1 of 1 runs of mad did not train"

    begun: list[list[str]] = []
    monkeypatch.setattr(fit, "main", lambda _, arguments: begun.append(arguments))
    assert "2 runs, 0 to do" in bench("ablate", path, *QUICK)[1]
    assert begun == []
    status, out, _ = bench("ablate", path, "--again", *QUICK)
    assert status == 0
    assert "run 1 of 1: mad, seed 0" in out
    (arguments,) = begun
    assert "1e+38" in arguments
    assert arguments[-1] == "--again"
    assert bench("ablate", path, "--again", "--dry-run", *QUICK)[1].endswith("--data.loader torch --again\n")


def test_fit_alone_records_divergence_until_it_starts_again(bench: Bench, tmp_path: Path, monkeypatch: Any) -> None:
    command = ("fit", "--config", "digits/linear", "--seed_everything", "0")

    def diverge(*_: Any) -> None:
        raise callbacks.TrainingDivergedError("the loss is not finite at step 3")

    monkeypatch.setattr(fit, "train", diverge)
    assert bench(*command)[0] == 1
    (record,) = (tmp_path / "runs").rglob("diverged.json")
    assert json.loads(record.read_text())["why"] == "the loss is not finite at step 3"
    monkeypatch.setattr(fit, "train", lambda *_: None)
    assert bench(*command)[0] == 0
    assert not record.exists()


def test_an_interrupt_stops_the_study_and_the_same_command_goes_on(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, seeds=[0])
    variants = ablate.check_cells(load_grid(path), [])
    monkeypatch.setattr(ablate, "check_cells", lambda *_: variants)
    fast, slow = (variant.run(tmp_path / "runs", 0) for variant in variants)
    begun: list[Run] = []

    def train(command: str, arguments: list[str]) -> int:
        begun.append(slow if "0.001" in arguments else fast)
        if begun == [fast, slow]:
            raise KeyboardInterrupt
        begun[-1].folder.mkdir(parents=True)
        write_result(begun[-1].result, make(recipe="digits/linear", identity=begun[-1].folder.parent.name))
        return 0

    monkeypatch.setattr(fit, "main", train)
    status, _, err = bench("ablate", path)
    assert status == 130
    assert "the same command goes on" in err
    status, out, _ = bench("ablate", path)
    assert status == 0
    assert "run 1 of 1: slow, seed 0" in out
    assert begun == [fast, slow, slow]


def test_dry_run_prints_commands_that_parse(bench: Bench, tmp_path: Path) -> None:
    path = write(tmp_path)
    status, out, err = bench("ablate", path, "--dry-run", "--runs", str(tmp_path / "my runs"), *QUICK)
    assert status == 0
    assert "4 runs, 4 to do" in err
    lines = out.splitlines()
    assert len(lines) == 4
    assert lines[2] == (
        "python -m benchmarks fit --config digits/linear --seed_everything 0 --trainer.max_epochs 1 "
        f"--model.optimizer.lr 0.001 --data.loader torch --runs '{tmp_path}/my runs'"
    )
    assert not (tmp_path / "my runs").exists()
    assert not (tmp_path / "runs").exists()
    cli = SuiteCLI("fit", shlex.split(lines[2])[4:])
    assert cli.run == ablate.check_cells(load_grid(path), [])[1].run(tmp_path / "my runs", 0)


def fake_sbatch(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """An `sbatch` on the path that notes its arguments, one a line, and then does what `script` says."""
    program, noted = folder / "bin" / "sbatch", folder / "noted"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" ==== >> {shlex.quote(str(noted))}\n{script}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    return noted


def test_submit_hands_all_runs_to_sbatch(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noted = fake_sbatch(tmp_path, monkeypatch, "echo 7")
    path = write(tmp_path, seeds=[3])
    options = "--time=1:00:00 --comment='a b; $(touch x)'"
    status, out, err = bench("ablate", path, "--submit", f"--sbatch={options}", *QUICK)
    assert status == 0, err
    assert "slow, seed 3: job 7_1" in out
    (script,) = (tmp_path / "runs" / "jobs").glob("*/train.sbatch")
    calls = [job.splitlines() for job in noted.read_text().split("====\n")[:-1]]
    extra = "--comment=a b; $(touch x)"
    assert calls == [["--parsable", "--test-only", extra, str(script)], ["--parsable", extra, str(script)]]
    text = script.read_text()
    assert "#SBATCH --time=1:00:00\n" in text
    assert "#SBATCH --array=0-1\n" in text
    assert "set -- digits/linear 3 --trainer.max_epochs 1 --data.loader torch\n" in text
    assert "set -- digits/linear 3 --trainer.max_epochs 1 --model.optimizer.lr 0.001 --data.loader torch\n" in text
    record = json.loads((script.parent / "submission.json").read_text())
    assert [run["job"] for run in record["runs"]] == ["7_0", "7_1"]
    assert record["jobs"] == {"train": "7"}


def test_submit_needs_a_cluster(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, seeds=[0])
    with monkeypatch.context() as patched:
        patched.setattr("shutil.which", lambda program: None)
        status, _, err = bench("ablate", path, "--submit", *QUICK)
    assert status == 2
    assert "sbatch is not on the path: submit on a login node of the cluster" in err
    fake_sbatch(tmp_path, monkeypatch, "echo invalid account >&2; exit 1")
    status, _, err = bench("ablate", path, "--submit", *QUICK)
    assert status == 2
    assert (
        "sbatch refuses train.sbatch (invalid account): change what was asked for, or, where it does not reach" in err
    )
    assert list((tmp_path / "runs" / "jobs").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--dryrun"],
            "--dryrun is no option of ablate, and no setting such as --data.loader torch: did you mean --dry-run?",
        ),
        (["--config", "x"], "--config is no option of ablate"),
        (["more"], "more is no option of ablate"),
        (["--sbatch=--time=1"], "--sbatch (=--time=1) belongs to --submit: add it."),
        (["--submit", "--sbatch='"], "--sbatch (=') must be options as in a shell (No closing quotation): correct it."),
        (["--seeds", "3"], "seeds (=3) must be a range such as 0-4, or several: 0,2,5. Seed 3 alone is 3-3."),
        (["--table", "--dry-run"], "not allowed with argument"),
        (["--data.loder", "torch"], "cell fast: "),
        (["--trainer.devices", "2", "--trainer.accelerator", "cpu"], "ablate trains on one device, not 2"),
        (["--model.optimizer.lr", "0.1"], "the cells fast and slow are the same run"),
    ],
)
def test_mistakes_on_the_command_line(bench: Bench, tmp_path: Path, options: list[str], message: str) -> None:
    status, _, err = bench("ablate", write(tmp_path), *options)
    assert status == 2
    assert message in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": "digits/liner"}, "small, cell fast: recipe (=digits/liner) is neither a file nor a recipe"),
        ({"settings": {"model.dropout": 0.5}}, "small, cell fast: "),
        ({"axes": {"rate": {"fast": {}, "slow": {"model.optimizer.lr": "low"}}}}, "small, cell slow: "),
        (
            {"axes": {"rate": {"fast": {}, "slow": {"model.optimizer.lr": 0.05}}}},
            "small: the cells fast and slow are the same run, digits/linear with the same settings: change or remove "
            "one.",
        ),
        (
            {"protocol": "10crop"},
            "protocol (=10crop) is not one of those that digits/linear is evaluated under, 1crop: correct the grid, or "
            "add a claim to the recipe.",
        ),
    ],
)
def test_every_cell_is_checked_before_anything_trains(
    bench: Bench, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    status, _, err = bench("ablate", write(tmp_path, **changes), "--dry-run")
    assert status == 2
    assert message in err
    assert not (tmp_path / "runs").exists()


def test_what_a_constructor_refuses_does_not_wait(bench: Bench, tmp_path: Path) -> None:
    axes = {"hidden": {"fast": {}, "slow": {"model.hidden": []}}}
    status, _, err = bench("ablate", write(tmp_path, recipe="digits/mlp", axes=axes), *QUICK)
    assert status == 2
    assert err.startswith("error: cell slow: ")
    assert "hidden (=[]) must name one layer or more" in err
    assert not list(tmp_path.rglob("result.json"))


def test_committed_results_count_for_a_recipe_as_it_stands(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablate, "COMMITTED", tmp_path / "committed")
    for seed, wrong in enumerate((800, 900)):
        errors = {"top1_error": wrong / 100, "top5_error": 0.0, "wrong1": wrong, "wrong5": 0, "count": 10_000}
        identity = load_recipe(find_recipe("digits/linear")).identity
        result = make(recipe="digits/linear", identity=identity, seed=seed, errors={"1crop": errors})
        (tmp_path / "committed/digits/linear").mkdir(parents=True, exist_ok=True)
        write_result(tmp_path / f"committed/digits/linear/seed-{seed}.json", result)
    found = table(bench, write(tmp_path, settings=None))
    fast, slow = found["cells"]
    assert (fast["value"], fast["seeds"], fast["note"]) == (8.5, [0, 1], "")
    assert (slow["value"], slow["note"]) == (None, "2 of 2 to do")
    assert found["contrasts"][0]["verdict"] == "not run"


def metrics(run: Run, errors: list[float], finished: bool = True) -> Run:
    """A run whose training error after each epoch was so."""
    run.folder.mkdir(parents=True)
    with open(run.metrics, "w", newline="") as file:
        writer = csv.DictWriter(file, EpochTable.COLUMNS, restval="")
        writer.writeheader()
        rows = ({"epoch": epoch, "step": 10 * (epoch + 1), "train/top1_error": e} for epoch, e in enumerate(errors))
        writer.writerows(rows)
    if finished:
        write_result(run.result, make())
    return run


def test_epochs_to_a_training_error(tmp_path: Path) -> None:
    def of(name: str, errors: list[float], **finished: bool) -> Outcome:
        return epochs_to(metrics(Run(tmp_path / name), errors, **finished), 0, 25.0)

    assert of("quick", [60, 25, 24]) == Outcome(0, 2.0)
    assert of("bounces", [60, 24, 26, 20]) == Outcome(0, 2.0)
    assert of("slow", [60, 40]) == Outcome(0, None, NOT_REACHED)
    assert of("stopped", [60, 20], finished=False) == Outcome(0, None, TO_DO)
    assert epochs_to(Run(tmp_path / "none"), 0, 25.0) == Outcome(0, None, TO_DO)


def test_a_grid_of_epochs(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"measure": "epochs_to", "train_error": 25, "protocol": None, "metric": None, "published": None}
    path = write(tmp_path, contrasts=[{"of": "slow over fast", "published": 6, "where": "Figure 1"}], **changes)
    variants = ablate.check_cells(load_grid(path), [])
    monkeypatch.setattr(ablate, "check_cells", lambda *_: variants)
    for variant, epochs in zip(variants, ([5, 6], [30, 36]), strict=True):
        for seed, epoch in enumerate(epochs):
            metrics(variant.run(tmp_path / "runs", seed), [50.0] * (epoch - 1) + [20.0])
    found = table(bench, path)
    assert [cell["value"] for cell in found["cells"]] == [5.5, 33]
    assert found["contrasts"][0]["value"] == pytest.approx(6)
    assert found["contrasts"][0]["verdict"] == "same sign, interval holds the paper's value"
    assert found["measure"] == "epochs to 25 % training error"
    assert "`over` is the ratio of geometric means" in bench("ablate", path, "--table")[1]


def report(tmp_path: Path, fast: list[Outcome], slow: list[Outcome]) -> Any:
    return build_report(load_grid(write(tmp_path)), {"fast": fast, "slow": slow})


def values(*errors: float) -> list[Outcome]:
    return [Outcome(seed, error) for seed, error in enumerate(errors)]


def test_one_seed_shows_no_interval(tmp_path: Path) -> None:
    text = as_table(report(tmp_path, values(8.0), values(28.5)))
    assert "±" not in text.split("Cells:")[0]
    assert "not proven" in text
    assert re.search(r"\+20\.50 +– +20\.00 +Table 1 +not proven", text)


def test_the_table_by_hand(tmp_path: Path) -> None:
    """Both sides have variance 2 and n = 2, so Student's interval of 2 degrees of freedom: 4.3027 * sqrt(2) = 6.08."""
    text = as_table(report(tmp_path, values(7.0, 9.0), values(30.0, 32.0)))
    assert text.startswith("small: Is slower worse?\nSomebody 2015, A Paper (Table 1). https://example.org")
    assert "8.00 ± 12.71" in text  # 12.706 * sqrt(2) / sqrt(2)
    assert re.search(r"\+23\.00 +\+16\.92 to \+29\.08 +20\.00 +Table 1 +same sign, interval holds", text)
    assert "seeds do not pair" in text


def test_runs_without_a_value_are_said(tmp_path: Path) -> None:
    fast = [*values(7.0, 9.0), Outcome(2, None, TO_DO)]
    slow = [*values(30.0, 32.0), Outcome(2, None, DIVERGED)]
    found = report(tmp_path, fast, slow)
    assert [row.note for row in found.cells] == ["1 of 3 to do", "1 of 3 did not train"]
    assert [len(row.seeds) for row in found.cells] == [2, 2]
    assert found.contrasts[0].verdict == (
        "same sign, interval holds the paper's value; 1 of 3 runs of slow did not train"
    )


def test_formats_hold_the_same_numbers(tmp_path: Path) -> None:
    found = report(tmp_path, values(7.0, 9.0), values(30.0))
    cell, other, contrast = csv.DictReader(io.StringIO(as_csv(found)))
    assert (cell["kind"], cell["name"], cell["value"], cell["n"], cell["published"]) == (
        "cell",
        "fast",
        "8.0",
        "2",
        "8.00",
    )
    assert float(cell["high"]) - float(cell["low"]) == pytest.approx(2 * 12.7062, rel=1e-5)
    assert (other["low"], other["high"]) == ("", "")
    assert (contrast["kind"], contrast["value"], contrast["verdict"]) == ("minus", "22.0", "not proven")
    assert json.loads(as_json(found))["contrasts"][0]["value"] == 22.0
    assert str(Number(20.0)) == json.loads(as_json(found))["contrasts"][0]["published"]


def test_markdown_is_a_table(tmp_path: Path) -> None:
    text = as_markdown(report(tmp_path, [], values(30.0)))
    assert re.search(r"^\| cell +\| top-1 error %, 1crop +\| n +\| paper +\| +\|$", text, re.MULTILINE)
    assert re.search(r"^\| fast +\| – +\| 0 +\| 8\.00 +\| +\|$", text, re.MULTILINE)


def test_without_a_grid_all_are_listed(bench: Bench) -> None:
    status, out, _ = bench("ablate")
    assert status == 0
    assert "imagenet/plain_residual" in out
    assert bench("ablate", "digits/nrm")[0] == 2
