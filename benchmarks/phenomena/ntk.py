"""Wide networks train as kernel machines, the more so the wider; networks of the usual width do not.

Two studies:

- `width`: networks with one hidden layer of 64 to 4096 units are trained for 100 steps of full-batch gradient descent.
  The distance of their tangent kernel from its closed form, its drift, the change of the weights and the distance from
  the linearised network fall with the width, with the powers that theory has for them.
- `run`: the empirical tangent kernel of the network of `--run`, of its initial weights, which are drawn again, and of
  the trained ones, on some images; it says beforehand about how long it will take. `--outputs sum` is cheaper by the
  number of classes, for ImageNet's thousand.

`benchmarks.kernel_drift.KernelDrift` follows the drift while a network trains; a recipe names it under
`trainer.callbacks`.
"""

from __future__ import annotations

from typing import Any, Literal

from benchmarks.phenomena import ntk_run, ntk_width
from benchmarks.phenomena.analysis import AnalysisError, Outcome, Preset
from benchmarks.phenomena.finished import FinishedRun
from benchmarks.phenomena.options import Device, changed, check_given, check_run
from benchmarks.phenomena.tangent_kernel import Outputs

PAPER = (
    "Jacot, Gabriel, Hongler 2018, Neural tangent kernel; Lee et al. 2019, Wide neural networks of any depth evolve as "
    "linear models under gradient descent"
)
COST = "seconds; `run` 2 minutes on one core for 400 images and a LeNet-5"
VARIANT = "study"

Study = Literal["width", "run"]


def analyze(
    study: Study = "width",
    run: FinishedRun | None = None,
    images: int | None = None,
    test: int | None = None,
    outputs: Outputs | None = None,
    memory_gb: float | None = None,
    device: Device | None = None,
    networks: int | None = None,
    steps: int | None = None,
    preset: Preset = "cpu",
    seed: int = 0,
) -> Outcome:
    """Compare networks with the kernel machines that they would be. Options that are not given are the preset's.

    Args:
        study: width, or run with --run.
        images: training images; for width of digits, for run of its own dataset.
        test: test images; for run.
        outputs: each logit's gradients, or those of their sum, which is cheaper; for run.
        memory_gb: gigabytes of gradients that are held at once; for run.
        device: cpu, cuda, or auto for the GPU where there is one; for run.
        networks: of each width; for width.
        steps: of gradient descent; for width.
        preset: smoke, cpu or full.
        seed: of weights and images.
    """
    given: dict[str, Any] = {
        "images": images, "test": test, "outputs": outputs, "memory_gb": memory_gb, "device": device,
        "networks": networks, "steps": steps,
    }  # fmt: skip
    check_options(study, run, given)
    if study == "run" and run is not None:
        return ntk_run.study(run, changed(ntk_run.PRESETS[preset], given), seed)
    given["points"] = given.pop("images")
    return ntk_width.study(changed(ntk_width.PRESETS[preset], given), seed)


OF_STUDY = {  # options that only one study has
    **dict.fromkeys(("test", "outputs", "memory_gb", "device"), ("run",)),
    **dict.fromkeys(("networks", "steps"), ("width",)),
}
LEAST = {"images": 10, "test": 10, "networks": 2, "steps": 1}


def check_options(study: Study, run: FinishedRun | None, given: dict[str, Any]) -> None:
    """Refuse values that cannot be run.

    Raises:
        AnalysisError: naming the value, the rule and the remedy.
    """
    check_run(study, run)
    check_given(study, given, OF_STUDY, LEAST)
    memory = given["memory_gb"]
    if memory is not None and not memory > 0:
        raise AnalysisError(f"--memory_gb (={memory:g}) must be above 0, it is a bound: use 1.")
