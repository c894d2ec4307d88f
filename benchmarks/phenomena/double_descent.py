"""Past the point where a model fits its training set exactly, more parameters make it better again.

The test error has its peak where there are as many parameters as numbers to fit. Four studies, from what is known
exactly to what is seen:

- `linear`: minimum-norm least squares on Gaussian data, against the limit of Hastie et al.; ridge regression of the
  best penalty has no peak.
- `random_features`: ridge regression on random ReLU features, against the formula of Mei and Montanari.
- `fourier`: minimum-norm least squares on random Fourier features of MNIST, the figure of Belkin et al.
- `net`: networks of one hidden layer, all of whose weights are trained, on digits: with a fifth of the labels wrong
  there is a peak, with the true labels there is none.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from benchmarks.phenomena import fourier_features, linear_risk, random_features, trained_net
from benchmarks.phenomena.analysis import AnalysisError, Outcome, Preset

PAPER = "Belkin, Hsu, Ma, Mandal 2019 (PNAS 116); Hastie et al. 2022; Mei, Montanari 2022; Nakkiran et al. 2020"
COST = "smoke 1 to 20 s; cpu 1 to 2 minutes, `net` about 8 on one core; `fourier` needs MNIST in cpu and full"
VARIANT = "study"

Study = Literal["linear", "random_features", "fourier", "net"]
STUDIES = {
    "linear": linear_risk, "random_features": random_features, "fourier": fourier_features, "net": trained_net
}  # fmt: skip


def analyze(
    study: Study = "linear",
    samples: int | None = None,
    sizes: list[float] | None = None,
    repetitions: int | None = None,
    label_noise: float | None = None,
    preset: Preset = "cpu",
    seed: int = 0,
) -> Outcome:
    """Measure the error over the size of the model. Options that are not given are the preset's.

    Args:
        study: what is fitted: linear, random_features, fourier, net.
        samples: training samples.
        sizes: of the model, ascending: columns or features per sample; for net, weights per sample and class.
        repetitions: draws of data and model for each size.
        label_noise: share of wrong training labels, 0 to 1; for fourier and net.
        preset: smoke, cpu or full.
        seed: of the first draw.
    """
    settings = STUDIES[study].PRESETS[preset]
    check_options(study, samples, sizes, repetitions, label_noise)
    names = {
        "linear": ("samples", "gammas", "repetitions"),
        "random_features": ("samples", "ratios", "repetitions"),
        "fourier": ("samples", "ratios", "repetitions"),
        "net": ("samples", "ratios", "repetitions"),
    }[study]
    ascending = None if sizes is None else tuple(sizes)
    given = dict(zip(names, (samples, ascending, repetitions), strict=True)) | {"label_noise": label_noise}
    settings = dataclasses.replace(settings, **{name: value for name, value in given.items() if value is not None})
    return STUDIES[study].study(settings, seed)


def check_options(
    study: Study, samples: int | None, sizes: list[float] | None, repetitions: int | None, label_noise: float | None
) -> None:
    """Refuse values that cannot be run.

    Raises:
        AnalysisError: naming the value, the rule and the remedy.
    """
    if samples is not None and samples < 10:
        raise AnalysisError(f"--samples (={samples}) must be at least 10: leave it out for the preset's.")
    if repetitions is not None and repetitions < 2:
        raise AnalysisError(f"--repetitions (={repetitions}) must be at least 2, to show a spread: use 3 or more.")
    if label_noise is not None and not 0 <= label_noise <= 1:
        raise AnalysisError(
            f"--label_noise (={label_noise}) must lie in [0, 1], it is a share: 0.2 is every fifth label."
        )
    if label_noise is not None and study not in ("fourier", "net"):
        raise AnalysisError(f"--label_noise (={label_noise}) is for labels, {study} has none: leave it out.")
    if label_noise == 0 and study == "net":
        raise AnalysisError(
            f"--label_noise (={label_noise}) must be above 0, true labels are trained on beside it: use 0.2."
        )
    if sizes is None:
        return
    if min(sizes, default=0) <= 0 or sorted(set(sizes)) != sizes:
        raise AnalysisError(f"--sizes (={sizes}) must be positive and ascending: leave it out for the preset's.")
    if not (sizes[0] < 1 < sizes[-1] and 1 in sizes):
        raise AnalysisError(f"--sizes (={sizes}) must hold 1, the peak, and sizes on both sides of it: use [0.5,1,2].")
