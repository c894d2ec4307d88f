"""Results one by one: a flat row for each run and protocol, with everything that one could want to sort or group by."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.published import Claim, verdict
from benchmarks.recipe import Recipe
from benchmarks.results import Result


@dataclass(frozen=True)
class RunRow:
    """One run under one protocol. Errors are in percent; None for what a run does not have.

    Args:
        dataset: the recipe's folder.
        recipe: name of the recipe.
        identity: hash of the settings that were run.
        overrides: settings that differ from the recipe's, as JSON; empty for the recipe as it stood.
        current: whether the recipe is still the one that was run.
        seed: of the run; of an ensemble its repetition.
        protocol: how the network was evaluated.
        top1_error: in percent; wrong1 of count images.
        top5_error: likewise.
        wrong1: test images whose class was not the first guess.
        wrong5: test images whose class was not among the first five guesses.
        count: test images.
        published: the published error in percent; None where nothing is claimed under this protocol.
        published_metric: which of the two errors that is.
        verdict: what this run alone says of the claim; the leaderboard judges the mean over seeds.
        parameters: trainable parameters.
        epochs: of training.
        steps: of the optimizer.
        train_loss: in the last epoch.
        train_top1_error: in the last epoch, in percent, on augmented images.
        images_per_s: in training, median over epochs, all devices together.
        train_s: seconds of training.
        data_wait_s: seconds of these that training waited for images.
        evaluation_s: seconds of evaluation.
        total_s: seconds from start to end.
        device: `cpu` or `cuda`.
        device_name: the processor's or the GPU's.
        devices: how many of them, over all nodes.
        nodes: how many machines.
        precision: of the trainer, such as 32-true.
        loader: which read the training images.
        train_images: images of the training set.
        test_content: hash of the test images.
        torch: version of PyTorch.
        commit: of the suite.
        clean: whether the suite's code was as in the commit.
        finished: date and time, UTC.
        wandb_id: of its W&B run.
    """

    dataset: str
    recipe: str
    identity: str
    overrides: str
    current: bool
    seed: int
    protocol: str
    top1_error: float
    top5_error: float
    wrong1: int
    wrong5: int
    count: int
    published: float | None
    published_metric: str | None
    verdict: str
    parameters: int
    epochs: float | None
    steps: float | None
    train_loss: float | None
    train_top1_error: float | None
    images_per_s: float | None
    train_s: float | None
    data_wait_s: float | None
    evaluation_s: float | None
    total_s: float | None
    device: str
    device_name: str
    devices: int
    nodes: int | None
    precision: str | None
    loader: str | None
    train_images: int | None
    test_content: str | None
    torch: str | None
    commit: str | None
    clean: bool | None
    finished: str
    wandb_id: str | None


def build_run_rows(found: Iterable[Result], recipes: Iterable[Recipe]) -> list[RunRow]:
    """A row for each run and protocol, in the order of recipes, settings, seeds and protocols."""
    by_name = {recipe.name: recipe for recipe in recipes}
    ordered = sorted(found, key=lambda result: result.key)
    return [
        build_run_row(result, protocol, by_name.get(result.recipe))
        for result in ordered
        for protocol in sorted(result.errors)
    ]


def build_run_row(result: Result, protocol: str, recipe: Recipe | None) -> RunRow:
    """The row of one run under one protocol."""
    errors, dataset = result.errors[protocol], result.dataset
    claim = find_claim(result, protocol, recipe)
    current = not result.overrides if is_custom(result) else recipe is not None and recipe.identity == result.identity
    train, test = (part if isinstance(part := dataset.get(name), dict) else {} for name in ("train", "test"))
    return RunRow(
        dataset=dataset_of(result),
        recipe=result.recipe,
        identity=result.identity,
        overrides=json.dumps(result.overrides, default=str) if result.overrides else "",
        current=current,
        seed=result.seed,
        protocol=protocol,
        top1_error=errors["top1_error"],
        top5_error=errors["top5_error"],
        wrong1=int(errors["wrong1"]),
        wrong5=int(errors["wrong5"]),
        count=int(errors["count"]),
        published=claim.value if claim else None,
        published_metric=claim.metric if claim else None,
        verdict=judge(claim, errors, current),
        parameters=result.parameters,
        epochs=result.training.get("epochs"),
        steps=result.training.get("steps"),
        train_loss=result.training.get("train/loss"),
        train_top1_error=result.training.get("train/top1_error"),
        images_per_s=result.throughput.get("images_per_s"),
        train_s=result.seconds.get("train"),
        data_wait_s=result.seconds.get("data_wait"),
        evaluation_s=result.seconds.get("evaluation"),
        total_s=result.seconds.get("total"),
        device=result.hardware["device"],
        device_name=result.hardware["name"],
        devices=result.hardware["devices"],
        nodes=result.hardware.get("nodes"),
        precision=str(result.resolved.get("trainer.precision") or "32-true") if result.training else None,
        loader=text(dataset.get("loader")),
        train_images=train.get("count"),
        test_content=text(test.get("content")),
        torch=text(result.versions.get("torch")),
        commit=text(result.commit.get("id")),
        clean=result.commit.get("clean"),
        finished=result.finished,
        wandb_id=result.wandb_id,
    )


def dataset_of(result: Result) -> str:
    """The folder of its recipe; another kind of that dataset, with other images, has its own name: mnist1989."""
    folder, name = result.recipe.split("/")[0], str(result.dataset.get("name"))
    return name if name.startswith(folder) else folder


def is_custom(result: Result) -> bool:
    """Whether its recipe is outside the suite, and known by its results alone."""
    return result.recipe.startswith("custom/")


def find_claim(result: Result, protocol: str, recipe: Recipe | None) -> Claim | None:
    """What is claimed under a protocol, top-1 before top-5: by the recipe, or, outside the suite, by the result."""
    if is_custom(result):
        claims = [Claim(**claim) for claim in result.published.get("claims", [])]
    else:
        claims = recipe.published.claims if recipe else []
    found = [claim for claim in claims if claim.protocol == protocol]
    return min(found, key=lambda claim: claim.metric != "top1_error", default=None)


def judge(claim: Claim | None, errors: dict[str, float], current: bool) -> str:
    """What the errors of one run say of the claim."""
    if not current:
        return "changed recipe"
    return verdict(claim, [errors[claim.metric]]) if claim else "nothing claimed"


def text(value: Any) -> str | None:
    """As text, but for None."""
    return None if value is None else str(value)
