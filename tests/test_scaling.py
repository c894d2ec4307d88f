"""Scaling: the model against closed forms, the fit against made points, two real ranks, and what is refused."""

from __future__ import annotations

import json
import math
from argparse import Namespace
from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy

from benchmarks.runs import RunError
from benchmarks.scaling import BEGIN, END, Ranks, as_markdown, as_text, committed, on_paper, serve, turns
from benchmarks.scaling_model import (
    MEBIBYTE,
    Computation,
    Network,
    bound,
    buckets,
    efficiency,
    extrapolated,
    fitted,
    joined,
    predicted,
)
from benchmarks.suite_cli import SuiteCLI, quiet_warnings

Bench = Callable[..., tuple[int, str, str]]
PLAIN = Network(bandwidth=1e9, node_bandwidth=1e9, latency=0.001, overlap=0.0, collective="ring")


def test_a_step_by_hand() -> None:
    # 4 ranks, 2 GB at 1 GB/s: 2 x 3/4 x 2 s; 3 buckets of 2 x 3 hops of 1 ms each.
    step = predicted(1.0, 2e9, 3, 4, PLAIN)
    assert step.transfer == pytest.approx(3.0)
    assert step.latency == pytest.approx(0.018)
    assert step.step == pytest.approx(4.018)
    assert step.communication == pytest.approx(3.018 / 4.018)
    assert predicted(1.0, 2e9, 3, 1, PLAIN) == (1.0, 1.0, 0.0, 0.0)


def test_the_backward_pass_hides_all_but_the_last_bucket() -> None:
    hiding = Network(bandwidth=1e9, node_bandwidth=1e9, latency=1e-12, overlap=0.5)
    assert predicted(1.0, 2e9, 3, 2, hiding).step == pytest.approx(1.0 + 2.0 - 0.5)
    assert predicted(100.0, 2e9, 4, 2, hiding).step == pytest.approx(100.0 + 2.0 / 4)
    assert predicted(100.0, 2e9, 1, 2, hiding).step == pytest.approx(100.0 + 2.0)


def test_hops_and_links() -> None:
    ring, tree, auto = (Network(collective=name) for name in ("ring", "tree", "auto"))
    assert [network.hops(1024) for network in (ring, tree, auto)] == [2046, 20, 20]
    assert [network.hops(2) for network in (ring, tree, auto)] == [2, 2, 2]
    assert (auto.at(8), auto.at(9)) == (200e9, 25e9)
    assert joined(auto, 7.0).at(8) == joined(auto, 7.0).at(9) == 7.0


def test_buckets_are_those_that_ddp_makes() -> None:
    assert [buckets(size * MEBIBYTE) for size in (0.5, 1, 1.5, 26, 26.5, 97.5)] == [1, 1, 2, 2, 3, 5]
    assert buckets(97.5 * MEBIBYTE, cap_mb=100) == 2


def test_the_fit_finds_the_bandwidth_that_made_the_points() -> None:
    made = joined(PLAIN, 3e8)
    points = [
        {"ranks": k, "compute": 1.0, "step": predicted(1.0, 1e9, 4, k, made).step} for k in (1, 2, 4, 8)
    ]  # fmt: skip
    rate = fitted(points, 1e9, 4, PLAIN)
    assert rate == pytest.approx(3e8, rel=0.006)  # the grid's steps
    assert fitted(points[:1], 1e9, 4, PLAIN) is None
    unseen = [{"ranks": 2, "compute": 1.0, "step": 0.9}]
    assert fitted(unseen, 1e9, 4, PLAIN) is None


def test_computation_is_a_line_of_no_negative_part() -> None:
    line = Computation.through([(32, 5.2), (64, 8.4), (128, 14.8)])
    assert line.fixed == pytest.approx(2.0)
    assert line.per_image == pytest.approx(0.1)
    assert line.seconds(10) == pytest.approx(3.0)
    assert Computation.through([(32, 3.2)]).fixed == 0
    assert Computation.through([(32, 3.2)]).per_image == pytest.approx(0.1)
    assert Computation.through([(32, 3.0), (64, 6.4)]).fixed == 0
    assert Computation.through([(32, 4.0), (64, 3.0)]) == Computation(3.5, 0.0)


def test_efficiency_and_what_bounds_a_step() -> None:
    assert efficiency("strong", 8.0, 2.0, 4) == 1.0
    assert efficiency("weak", 8.0, 10.0, 4) == 0.8
    assert bound(predicted(100.0, 1e9, 4, 2, PLAIN)) == "arithmetic"
    assert bound(predicted(100.0, 1e9, 4, 2, PLAIN), fixed=60.0) == "fixed cost of a step"
    assert bound(predicted(0.1, 1e9, 4, 2, PLAIN)) == "bandwidth"
    assert bound(predicted(0.1, 1e3, 4, 1024, PLAIN)) == "latency"


def test_further_ranks_have_an_image_at_least() -> None:
    found = extrapolated(Computation(0.0, 0.001), 256, ["strong", "weak"], (8, 64, 1024), 1e8, 5, Network())
    assert [(one["mode"], one["ranks"]) for one in found] == [
        ("strong", 8), ("strong", 64), ("weak", 8), ("weak", 64), ("weak", 1024),
    ]  # fmt: skip
    assert all(0 < one["efficiency"] <= 1 for one in found)
    assert found[0]["images_per_rank"] == 32
    assert found[1]["efficiency"] < found[0]["efficiency"] < found[2]["efficiency"]


def options(recipe: str, *settings: str) -> Namespace:
    return Namespace(recipe=recipe, settings=list(settings), ranks=[1, 2], steps=2, bucket_cap_mb=25)


def test_two_ranks_average_their_gradients_and_are_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from benchmarks.cli import main

    monkeypatch.setattr("benchmarks.scaling.cores", lambda: 2)
    out = tmp_path / "out.json"
    sizes = ["--rounds", "1", "--steps", "2", "--json", str(out)]
    status = main(["scaling", "digits/linear", "--trainer.accelerator", "cpu", *sizes, f"--data.root={tmp_path}"])
    assert status == 0
    record = json.loads(out.read_text())
    assert [(p["ranks"], p["mode"], p["images_per_rank"]) for p in record["points"]] == [
        (1, "one", 32), (2, "strong", 16), (2, "weak", 32),
    ]  # fmt: skip
    assert record["gradient_bytes"] == 4 * (64 * 10 + 10)
    assert (record["backend"], record["on_paper"]["buckets"]) == ("gloo", 1)
    for point in record["points"]:
        assert len(point["seconds"]) == 1
        assert point["seconds"][0] > 0
        assert len(point.get("seconds_without_communication", [])) == (point["ranks"] > 1)
    assert {"hardware", "versions", "commit", "command", "finished"} <= set(record)
    assert record["hardware"]["load_before"] >= 0
    assert str(tmp_path) not in out.read_text()
    assert "measured nowhere" in as_text(record)


def test_a_rank_that_is_refused_says_why() -> None:
    ours, theirs = Pipe()
    plan = {"rank": 0, "ranks": [1], "recipe": "digits/linear", "settings": ["--data.image_size", "9"], "gpu": False}
    serve(plan | {"threads": torch.get_num_threads()}, theirs)
    error = ours.recv()
    assert isinstance(error, RunError)
    assert "image_size (=9) of digits must be a multiple of 8" in str(error)


def test_the_first_answer_that_is_an_error_is_raised() -> None:
    group = Ranks.__new__(Ranks)
    ours, theirs = zip(*(Pipe() for _ in range(2)), strict=True)
    group.connections = list(ours)
    for number, other in enumerate(theirs):
        other.send(number)
    assert group.ask(2, "about") == [0, 1]
    theirs[1].send(RunError("the second rank's"))
    with pytest.raises(RunError, match=r"^the second rank's$"):
        group.ask(2, "about")
    theirs[0].close()
    with pytest.raises(RunError, match="a rank failed: see above"):
        group.ask(2, "about")


def made(ratio: float) -> dict[str, Any]:
    """A record whose two ranks take `ratio` times as long with communication as without."""
    points = [
        {"ranks": 1, "mode": "one", "images_per_rank": 32, "seconds": [1.0, 2.0]},
        {
            "ranks": 2, "mode": "weak", "images_per_rank": 32, "seconds": [ratio, 2 * ratio],
            "seconds_without_communication": [1.0, 2.0],
        },
    ]  # fmt: skip
    hardware = {"name": "a processor", "threads_per_rank": 1, "load_before": 0.0}
    record: dict[str, Any] = {
        "recipe": "a/b", "batch_size": 32, "backend": "gloo", "steps": 5, "points": points, "hardware": hardware,
        "gradient_bytes": 1e8, "bucket_cap_mb": 25,
    }  # fmt: skip
    record["on_paper"] = on_paper(record, ["weak"], Network())
    return record


def test_the_table_has_ratios_within_a_round() -> None:
    lines = as_text(made(4.0)).splitlines()
    row = next(line.split() for line in lines if line.startswith("2 "))
    assert row[:4] == ["2", "weak", "32", "6000.00"]
    assert row[4:] == ["75", "(75", "to", "75)", "25", "(25", "to", "25)", row[-1]]
    assert float(row[-1]) == pytest.approx(6000, rel=0.01)  # the fitted model goes through the one point there is
    assert "no communication was seen" in as_text(made(1.0))
    assert math.isfinite(made(4.0)["on_paper"]["fitted_bandwidth"])


def test_the_readme_shows_what_is_committed() -> None:
    records = committed()
    assert records
    readme = Path(__file__).resolve().parent.parent / "README.md"
    assert as_markdown(records) in readme.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    assert all(record["commit"]["clean"] for record in records)
    assert as_markdown([]) == "Not measured yet."


def test_a_recipe_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.cli import main

    assert main(["scaling"]) == 2
    assert "scaling needs the name of a recipe, whose steps are timed" in capsys.readouterr().err
    assert main(["scaling", "mnist/lenet5", "--write", "README.md"]) == 2
    assert "--write measures nothing, it writes what was measured before" in capsys.readouterr().err


def test_ddps_own_settings_reach_it_and_are_no_setting_of_the_run(tmp_path: Path) -> None:
    """As `fit` on several devices builds it, on one that is alone in its group."""
    config = ["--config", "digits/linear", "--seed_everything", "0", "--trainer.accelerator", "cpu"]
    strategy = ["--trainer.strategy", "DDPStrategy", "--trainer.strategy.bucket_cap_mb", "50"]
    cli = SuiteCLI("fit", [*config, *strategy, "--trainer.strategy.gradient_as_bucket_view", "true"])
    assert cli.overrides == {}
    with quiet_warnings():
        cli.build([])
    chosen = cli.trainer.strategy
    assert isinstance(chosen, DDPStrategy)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        network = chosen._setup_model(cli.model)
        assert network.bucket_bytes_cap == 50 * MEBIBYTE
        assert network.gradient_as_bucket_view
    finally:
        dist.destroy_process_group()


def test_one_rank_is_measured_once() -> None:
    assert turns(options("a"), 32, ["strong", "weak"]) == [(1, "one", 32), (2, "strong", 16), (2, "weak", 32)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ranks", "2,4"), "--ranks (=2,4) must increase and begin with 1"),
        (("--ranks", "1,2,2"), "--ranks (=1,2,2) must increase and begin with 1"),
        (("--ranks", "1,1000"), "--ranks (=1,1000) must be at most 6, the cores here, one for each: use fewer."),
        (("--ranks", "1,5"), "must each divide the batch of 32 images that they share; 5 does not: use others, "),
        (("--trainer.devices", "2"), "--trainer.devices does nothing with scaling: the ranks are those of --ranks."),
        (("--ranks", "0,1"), "argument --ranks: 0 must be at least 1"),
        (("--overlap", "2"), "argument --overlap: 2 must be from 0 to 1: a share"),
        (("--bandwidth", "inf"), "argument --bandwidth: inf must be above 0, and finite"),
        (("--json", "/no/such/folder/a.json"), "--json (=/no/such/folder/a.json) must be in a folder that exists"),
    ],
)
def test_what_is_refused_starts_no_rank(
    bench: Bench, arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.scaling.Ranks", None)
    monkeypatch.setattr("benchmarks.scaling.cores", lambda: 6)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    status, _, error = bench("scaling", "digits/linear", *arguments)
    assert status == 2
    assert message in error
