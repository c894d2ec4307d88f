"""The network that a finished run began with: its weights follow from recipe and seed, so that no file keeps them."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
import yaml
from torch import Tensor, nn

from benchmarks.phenomena.analysis import AnalysisError, random_numbers_kept, untouched
from benchmarks.phenomena.finished import QUIET, FinishedRun
from benchmarks.runs import Run
from benchmarks.suite_cli import SuiteCLI, quiet_warnings
from models.classifier import Classifier


def initial_network(run: FinishedRun) -> Classifier:
    """The network of `run` as it was before its first step, in evaluation mode on the CPU; no random number is lost.

    Built again from the run's recipe and seed. That gives its weights if the code of the network and torch's random
    numbers are those of the run, which its result.json names.

    Raises:
        AnalysisError: the seed is not known, or the run began with weights from a file.
    """
    name = run.folder.name if run.folder is not None else ""
    if run.folder is None or not name.removeprefix("seed-").isdigit():
        raise AnalysisError(
            f"{run.checkpoint.name} must lie in the folder seed-N of a run, of whose seed its initial weights follow, "
            f"it lies in {run.checkpoint.parent}: give --run with such a folder."
        )
    recipe = Run(run.folder).resolved_recipe
    weights = yaml.safe_load(recipe.read_text(encoding="utf-8"))["model"].get("init_args", {}).get("weights")
    if weights is not None:
        raise AnalysisError(
            f"the run's recipe has weights (={weights}), its network began with a file and not with its seed: give a "
            "run that was trained from the start."
        )
    with random_numbers_kept(), quiet_warnings():
        cli = SuiteCLI("test", ["--config", str(recipe), "--seed_everything", str(run.seed), *QUIET])
        cli.build([])
    return cli.model.eval()


def with_statistics(network: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """A copy whose batch norms have the statistics of `batches`, averaged; the network itself where it has none.

    At the start running means are 0 and variances 1, with which no training step computes. All else is in evaluation
    mode, dropout too: the same batches give the same statistics.

    Raises:
        AnalysisError: a batch is of one image, which has no variance.
    """
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        return network
    with untouched(network), torch.no_grad():
        other = copy.deepcopy(network).eval()
        norms = [module for module in other.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # PyTorch's word for the mean of all batches
            norm.train()
        for images in batches:
            if len(images) < 2:
                raise AnalysisError(
                    "a batch (=1 image) must hold 2 or more where there are batch norms, one image has no variance: "
                    "use a larger --batch, or as many --images as fill the last one."
                )
            other(images)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return other.eval()
