"""Of the many networks without training error, gradient descent chooses; nothing in the loss asks for its choice.

Four studies, from what is known exactly to what is seen:

- `min_norm`: of all solutions of a least-squares problem it finds the one nearest to its start; from 0, the shortest.
- `max_margin`: of all classifiers that separate the data it turns towards the one of largest margin, the support vector
  machine; with plain steps only as 1 / log t, with steps divided by the loss as 1 / t.
- `diagonal`: for a network `u^2 - v^2` it is the size of the initial weights that decides, between the solutions of
  smallest l2 and of smallest l1 norm.
- `width`: the figure with which Neyshabur et al. asked the question: the test error of a network with one hidden layer
  falls with its width, long after the training error is 0.

The first three are held to numpy's pseudo-inverse, scikit-learn's `SVC` and scipy's `linprog`, which know nothing of
gradient descent.
"""

from __future__ import annotations

from typing import Any, Literal

from benchmarks.phenomena import diagonal_net, max_margin, shortest_solution, width_sweep
from benchmarks.phenomena.analysis import AnalysisError, Outcome, Preset
from benchmarks.phenomena.options import changed, check_given

PAPER = (
    "Neyshabur, Tomioka, Srebro 2015, In search of the real inductive bias; Soudry et al. 2018, The implicit bias of "
    "gradient descent on separable data; Woodworth et al. 2020, Kernel and rich regimes in overparametrized models"
)
COST = "smoke seconds; cpu seconds, and 5 minutes for `width`, which needs MNIST in cpu and full"
VARIANT = "study"

Study = Literal["min_norm", "max_margin", "diagonal", "width"]
STUDIES = {"min_norm": shortest_solution, "max_margin": max_margin, "diagonal": diagonal_net, "width": width_sweep}


def analyze(
    study: Study = "min_norm",
    samples: int | None = None,
    repetitions: int | None = None,
    alphas: list[float] | None = None,
    widths: list[int] | None = None,
    epochs: int | None = None,
    preset: Preset = "cpu",
    seed: int = 0,
) -> Outcome:
    """Train to the end, and compare with the solution that theory names. Options that are not given are the preset's.

    Args:
        study: min_norm, max_margin, diagonal or width.
        samples: equations or points; not for width.
        repetitions: draws of the data; for width, networks of each width.
        alphas: initial weights, descending from 3 or more to 0.01 or less; for diagonal.
        widths: hidden units, ascending; for width. It must hold the one at which the training error is 0.
        epochs: for width.
        preset: smoke, cpu or full.
        seed: of the draws.
    """
    module = STUDIES[study]
    settings = module.PRESETS[preset]
    given: dict[str, Any] = {
        "samples": samples,
        "alphas": alphas,
        "widths": widths,
        "epochs": epochs,
        "repetitions": repetitions,
    }
    check_options(study, given, settings)
    if study == "width":
        given["networks"] = given.pop("repetitions")
    return module.study(changed(settings, given), seed)


OF_STUDY = {  # options that only some studies have
    "samples": ("min_norm", "max_margin", "diagonal"),
    "alphas": ("diagonal",),
    "widths": ("width",),
    "epochs": ("width",),
}


def check_options(study: Study, given: dict[str, Any], settings: Any) -> None:
    """Refuse values that cannot be run.

    Raises:
        AnalysisError: naming the value, the rule and the remedy.
    """
    check_given(study, given, OF_STUDY, {"epochs": 1})
    samples, repetitions, alphas = given["samples"], given["repetitions"], given["alphas"]
    widths = given["widths"]
    if isinstance(repetitions, int) and repetitions < 2:
        raise AnalysisError(f"--repetitions (={repetitions}) must be at least 2, to show a spread: use 3 or more.")
    if isinstance(samples, int):
        most = getattr(settings, "unknowns", 10**6) // 2
        if not 5 <= samples <= most:
            raise AnalysisError(
                f"--samples (={samples}) must be 5 to {most}, so that there are many solutions: leave it out for "
                f"the preset's {settings.samples}."
            )
    if isinstance(alphas, list) and (
        min(alphas, default=0) <= 0 or sorted(set(alphas), reverse=True) != alphas or alphas[0] < 3 or alphas[-1] > 0.01
    ):
        raise AnalysisError(
            f"--alphas (={alphas}) must be positive and descend from 3 or more, where the l2 solution is, to 0.01 or "
            "less, where the l1 solution is: use [10,0.1,0.001]."
        )
    if isinstance(widths, list):
        fitted = settings.fitted
        if sorted(set(widths)) != widths or not widths or widths[0] < 1 or fitted not in widths[:-1]:
            raise AnalysisError(
                f"--widths (={widths}) must ascend and hold {fitted}, which fits all, and wider ones: "
                f"use [4,{fitted},{8 * fitted}]."
            )
