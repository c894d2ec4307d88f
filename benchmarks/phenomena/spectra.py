"""The Hessian of a classifier has few large eigenvalues, of simple data as many as classes, whose means explain them.

Four studies:

- `mixture`: small networks on mixtures of 2, 5, 10 and 20 Gaussians, in the manner of Sagun et al.: a step in the
  spectrum after as many eigenvalues as classes, or one fewer, where there was none before training; a quarter to two
  thirds of the squared gradients of mini-batches lie in the space of those few, 99 to 1300 times what chance gives;
  the class means of the gradients span it.
- `weights`: the singular values of a network's weight matrices, 784-512-256-10 on MNIST: those of noise before
  training, by Marchenko and Pastur's law, and far beyond its edge after it.
- `features`: the same network's features, masks and errors, epoch by epoch: features gather about their class means.
- `run`: all three of the network of `--run`, beside its initial weights, which are drawn again; it says beforehand
  about how long it will take. On real data at this scale the place of the largest gap is no number of classes, and none
  is promised: which part of the Hessian the class means explain is what is measured. Of LeNet-5 on MNIST they hold 0.6
  of the first nine eigenvectors, a random vector 0.0002 of itself; its initial logits are all near 0, and there it is
  nearly 1.

Products with the Hessian are gradients of gradients; the largest eigenvalues and the density of all come from Lanczos'
method. The loss of a network that fits everything is flat, its Hessian nearly 0: training in `mixture` ends before.

Two callbacks follow a run while it trains, and a recipe names them under `trainer.callbacks`:
`benchmarks.hessian_spectrum.HessianTop`, the largest eigenvalues every few epochs, and
`benchmarks.layer_norms.LayerNorms`, the norm of each layer's weights, of their way from the start, and of their
gradients.
"""

from __future__ import annotations

from typing import Any, Literal

from benchmarks.phenomena import feature_spectra, hessian_mixture, spectra_run, trained_by_epochs, weight_spectra
from benchmarks.phenomena.analysis import AnalysisError, Outcome, Preset
from benchmarks.phenomena.finished import FinishedRun
from benchmarks.phenomena.options import Device, changed, check_given, check_run

PAPER = (
    "Sagun et al. 2017, Empirical analysis of the Hessian of over-parametrized neural networks; Papyan 2020, Traces of "
    "class/cross-class structure pervade deep learning spectra; Martin, Mahoney 2021, Implicit self-regularization in "
    "deep neural networks; Papyan, Han, Donoho 2020, Prevalence of neural collapse"
)
COST = (
    "smoke seconds; cpu half a minute to a minute of processor time, with MNIST for `weights` and `features`, and 4 "
    "minutes for `run` of a LeNet-5; full is not tried"
)
VARIANT = "study"

Study = Literal["mixture", "weights", "features", "run"]


def analyze(
    study: Study = "mixture",
    run: FinishedRun | None = None,
    images: int | None = None,
    products: int | None = None,
    probes: int | None = None,
    top: int | None = None,
    batch: int | None = None,
    memory_gb: float | None = None,
    device: Device | None = None,
    networks: int | None = None,
    loss: float | None = None,
    epochs: int | None = None,
    preset: Preset = "cpu",
    seed: int = 0,
) -> Outcome:
    """Measure spectra of Hessians, weights and features. Options that are not given are the preset's.

    Args:
        study: mixture, weights, features, or run with --run.
        images: training images that are looked at; for features and run.
        products: with the Hessian, for its largest eigenvalues; for run.
        probes: random vectors for the density of the Hessian's eigenvalues; for run.
        top: how many of the largest eigenvalues; for run. Default: two more than classes, 30 at most.
        batch: images in one pass, which bounds the memory; for run.
        memory_gb: gigabytes of vectors as long as the weights that may be held at once; for run.
        device: cpu, cuda, or auto for the GPU where there is one; for run.
        networks: of each number of classes; for mixture.
        loss: mean loss at which training ends; for mixture.
        epochs: of training; for weights and features.
        preset: smoke, cpu or full.
        seed: of weights, data and images.
    """
    of_run = {"products": products, "probes": probes, "top": top, "batch": batch, "memory_gb": memory_gb}
    given: dict[str, Any] = {"images": images, **of_run, "device": device}
    given |= {"networks": networks, "loss": loss, "epochs": epochs}
    check_options(study, run, given)
    if study == "run" and run is not None:
        return spectra_run.study(run, changed(spectra_run.PRESETS[preset], given), seed)
    if study == "mixture":
        return hessian_mixture.study(changed(hessian_mixture.PRESETS[preset], given), seed)
    settings = changed(trained_by_epochs.PRESETS[preset], given)
    return (weight_spectra if study == "weights" else feature_spectra).study(settings, seed)


OF_STUDY = {
    "images": ("features", "run"),
    **dict.fromkeys(("products", "probes", "top", "batch", "memory_gb", "device"), ("run",)),
    **dict.fromkeys(("networks", "loss"), ("mixture",)),
    "epochs": ("weights", "features"),
}
LEAST = {"images": 20, "products": 10, "probes": 1, "top": 1, "batch": 1, "networks": 2, "epochs": 1}


def check_options(study: Study, run: FinishedRun | None, given: dict[str, Any]) -> None:
    """Refuse values that cannot be run.

    Raises:
        AnalysisError: naming the value, the rule and the remedy.
    """
    check_run(study, run)
    check_given(study, given, OF_STUDY, LEAST)
    for name, remedy in (("memory_gb", "it is a bound: use 2"), ("loss", "training never reaches 0: use 0.03")):
        if given[name] is not None and not given[name] > 0:
            raise AnalysisError(f"--{name} (={given[name]:g}) must be above 0, {remedy}.")
