"""Shortcuts keep the loss of deep networks smooth; the minima of wide ones are equally good, with walls between them.

Four studies:

- `skips`: networks of 8, 20 and 56 layers learn digits, with shortcuts and without. On a plane whose directions are
  scaled filter by filter, the loss around the deepest is a bowl with them and rugged without. What is rugged is not
  learnt either: the training loss of the plain network is still above 1 when it is looked at, no minimum to speak of.
  Bent down means that the smaller curvature is below minus a tenth of the larger one's size. The tenth was chosen on
  the seeds that are shown; three others, `--seed 3`, give shares of 0.006 and 0.643, and 10.7 times the error.
- `ensemble`: 100 initial weights for each of several widths. The narrower the network, the more its loss is a matter of
  luck; those of wide ones nearly agree, and which has the lower training loss says less and less about the test loss.
- `between`: on the straight line from the initial weights to the solution the loss only falls, on that between the
  solutions of two starts there is a barrier, which shrinks with the first epochs that two networks have in common.
- `run`: a plane and lines around the network of `--run`, the line from its initial weights to it, and with `--other`
  that to the network of a second run of the recipe. It says beforehand about how long it will take.

Losses that are not finite are counted, and hatched where they are drawn.
"""

from __future__ import annotations

from typing import Any, Literal

from benchmarks.phenomena import landscape_run, landscape_skips, loss_ensemble, minima_between
from benchmarks.phenomena.analysis import AnalysisError, Outcome, Preset
from benchmarks.phenomena.finished import FinishedRun
from benchmarks.phenomena.options import Device, changed, check_given, check_run

PAPER = (
    "Li, Xu, Taylor, Studer, Goldstein 2018, Visualizing the loss landscape of neural nets; Choromanska et al. 2015, "
    "The loss surfaces of multilayer networks; Goodfellow, Vinyals, Saxe 2015, Qualitatively characterizing neural "
    "network optimization problems; Frankle et al. 2020, Linear mode connectivity and the lottery ticket hypothesis"
)
COST = "smoke seconds; cpu 10 minutes (skips), 2 (ensemble) and 1 (between, run) on one busy core"
VARIANT = "study"

Study = Literal["skips", "ensemble", "between", "run"]
STUDIES: dict[str, Any] = {"skips": landscape_skips, "ensemble": loss_ensemble, "between": minima_between}
OF_STUDY = {  # options that only some studies have
    **dict.fromkeys(("networks", "epochs"), ("skips", "ensemble", "between")),
    **dict.fromkeys(("images", "points", "radius"), ("skips", "run")),
    **dict.fromkeys(("test", "batch", "device", "other"), ("run",)),
}
LEAST = {"networks": 1, "epochs": 1, "images": 10, "points": 5, "test": 10, "batch": 1}


def analyze(
    study: Study = "skips",
    run: FinishedRun | None = None,
    other: str | None = None,
    images: int | None = None,
    test: int | None = None,
    points: int | None = None,
    radius: float | None = None,
    batch: int | None = None,
    device: Device | None = None,
    networks: int | None = None,
    epochs: int | None = None,
    preset: Preset = "cpu",
    seed: int = 0,
) -> Outcome:
    """Cut through the loss of networks. Options that are not given are the preset's.

    Args:
        study: skips, ensemble, between, or run with --run.
        other: folder seed-N of a second run of the recipe, to which a line is drawn; for run.
        images: training images that the loss is the mean over; for skips and run.
        test: test images; for run.
        points: of each side of a plane, odd; for skips and run.
        radius: of a plane, in lengths of the filters; for skips and run.
        batch: images that the network sees at once, which bounds the memory; for run.
        device: cpu, cuda, or auto for the GPU where there is one; for run.
        networks: seeds for skips, initial weights of each width for ensemble, pairs for between.
        epochs: of every training; not for run.
        preset: smoke, cpu or full.
        seed: of weights, order of images, directions, and of the images that are drawn.
    """
    given: dict[str, Any] = {
        "other": other, "images": images, "test": test, "points": points, "radius": radius, "batch": batch,
        "device": device, "networks": networks, "epochs": epochs,
    }  # fmt: skip
    check_options(study, run, given)
    if study == "run" and run is not None:
        return landscape_run.study(run, changed(landscape_run.PRESETS[preset], given), seed)
    return STUDIES[study].study(changed(STUDIES[study].PRESETS[preset], given), seed)


def check_options(study: Study, run: FinishedRun | None, given: dict[str, Any]) -> None:
    """Refuse values that cannot be run.

    Raises:
        AnalysisError: naming the value, the rule and the remedy.
    """
    check_run(study, run)
    check_given(study, given, OF_STUDY, LEAST if study == "skips" else LEAST | {"networks": 2})
    points, radius = given["points"], given["radius"]
    if points is not None and points % 2 == 0:
        raise AnalysisError(f"--points (={points}) must be odd, so that one is the network itself: use {points + 1}.")
    if radius is not None and not radius > 0:
        raise AnalysisError(f"--radius (={radius:g}) must be above 0: use 1, the length of each filter.")
