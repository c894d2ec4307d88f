"""Bounds of the generalisation gap hold, are far above 1, and most rise with the width, with which the gap falls.

A bound is a theorem with all of its constants: with probability 0.99 over the training images, the error on new images
is at most the share of training images whose margin is below gamma, plus the bound. Gamma is the margin that 10 % of
the training images do not exceed. A measure is what a bound grows with, without its constants; the JSON of each result
says which a number is, and which constants it has. Four studies:

- `width`: networks with one hidden layer of 32 to 2048 units, trained as by Neyshabur et al. 2019. The gap falls, and
  most bounds rise, but not theirs, as long as its term for the number of units is small. Bartlett's rises less with
  distances from the initial weights than with those from 0: as the width to the 0.29, and to the 0.66.
- `width_ntk`: above the number of inputs, in the NTK parametrisation, where layers of any width move about equally far.
  Bartlett's bound and Neyshabur's of 2018, both with distances from the initial weights, then rise about as the square
  root of the width: exponents of 0.46 and 0.42, and 0.53 and 0.47 between the two widest. Logarithms of the width are
  0.13 and 0.06 of these. The spectral complexity, Bartlett's without the logarithm and the 1/L that is added to every
  norm, has 0.29, and 0.38 between the two widest: the spectral norm of the last layer still falls to its limit. In
  `width` wide layers move less far, the last layer's part of the bound does not grow, and most widths are below the
  number of inputs.
- `labels`: true and random labels. Every bound tells the network that learnt from the one that memorised, of which the
  margins, divided by the spectral complexity, are several times smaller. The least bound, 2 to 9, is that of a network
  with noise in its weights.
- `run`: the network of `--run`, convolutions as the matrices that they are, biases as one input more. Known are linear
  layers, convolutions padded with zeros, LeNet's tables and sub-sampling, batch norm right behind one of these (it is
  folded in), ReLU, tanh, maxima, averages and dropout; others are refused. With shortcuts there are measures only.
"""

from __future__ import annotations

from typing import Any, Literal

from benchmarks.phenomena import bounds_labels, bounds_run, bounds_width, bounds_width_ntk
from benchmarks.phenomena.analysis import AnalysisError, Outcome, Preset
from benchmarks.phenomena.finished import FinishedRun
from benchmarks.phenomena.options import Device, changed, check_given, check_run

PAPER = (
    "Bartlett, Foster, Telgarsky 2017, Spectrally-normalized margin bounds; Neyshabur et al. 2019, The role of "
    "over-parametrization in generalization; Zhang et al. 2017, Understanding deep learning requires rethinking "
    "generalization"
)
COST = (
    "smoke seconds on digits; cpu minutes, with MNIST but for `width_ntk`; `run` a minute on one core for a LeNet-5; "
    "full is not tried"
)
VARIANT = "study"

Study = Literal["width", "width_ntk", "labels", "run"]
STUDIES: dict[str, Any] = {
    "width": bounds_width, "width_ntk": bounds_width_ntk, "labels": bounds_labels, "run": bounds_run,
}  # fmt: skip
OF_STUDY = {  # options that only some studies have
    "images": ("run",),
    "test": ("run",),
    "quantile": ("run",),
    "device": ("run",),
    "samples": ("width", "width_ntk", "labels"),
    "networks": ("width", "width_ntk", "labels"),
    "widths": ("width", "width_ntk"),
    "shares": ("labels",),
}
LEAST = {"images": 100, "test": 100, "samples": 100, "networks": 2}


def analyze(
    study: Study = "width",
    run: FinishedRun | None = None,
    images: int | None = None,
    test: int | None = None,
    quantile: float | None = None,
    device: Device | None = None,
    samples: int | None = None,
    networks: int | None = None,
    widths: list[int] | None = None,
    shares: list[float] | None = None,
    preset: Preset = "cpu",
    seed: int = 0,
) -> Outcome:
    """Compute what theory says of the gap, and the gap. Options that are not given are the preset's.

    Args:
        study: width, width_ntk, labels, or run with --run.
        images: training images whose margins and norms are taken; for run.
        test: test images; for run.
        quantile: of the training margins, which gamma is, 0 to 1; for run.
        device: cpu, cuda, or auto for the GPU where there is one; for run.
        samples: training images; for all but run.
        networks: for each width or share; for all but run.
        widths: hidden units, ascending; for width and width_ntk.
        shares: of labels that are corrupted, ascending from 0; for labels.
        preset: smoke, cpu or full.
        seed: of weights, images and labels.
    """
    given: dict[str, Any] = {
        "images": images, "test": test, "quantile": quantile, "device": device, "samples": samples,
        "networks": networks, "widths": widths, "shares": shares,
    }  # fmt: skip
    check_options(study, run, given)
    settings = changed(STUDIES[study].PRESETS[preset], given)
    return bounds_run.study(run, settings, seed) if run is not None else STUDIES[study].study(settings, seed)


def check_options(study: Study, run: FinishedRun | None, given: dict[str, Any]) -> None:
    """Refuse values that cannot be run.

    Raises:
        AnalysisError: naming the value, the rule and the remedy.
    """
    check_run(study, run)
    check_given(study, given, OF_STUDY, LEAST)
    if given["quantile"] is not None:
        bounds_run.check_quantile(given["quantile"])
    check_lists(given["widths"], given["shares"])


def check_lists(widths: list[int] | None, shares: list[float] | None) -> None:
    """Refuse widths and shares that do not ascend.

    Raises:
        AnalysisError: as said.
    """
    if widths is not None and (len(widths) < 2 or sorted(set(widths)) != widths or widths[0] < 2):
        raise AnalysisError(
            f"--widths (={widths}) must be two or more that ascend from 2 or more, for a slope: use [32,512]."
        )
    if shares is not None and (len(shares) < 2 or sorted(set(shares)) != shares or shares[0] != 0 or shares[-1] > 1):
        raise AnalysisError(f"--shares (={shares}) must ascend from 0, the true labels, to 1 at most: use [0,0.5,1].")
