"""The network and the data of a finished run, for an analysis."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.fit import check_checkpoint
from benchmarks.phenomena.analysis import AnalysisError, random_numbers_kept
from benchmarks.runs import Run
from benchmarks.suite_cli import SuiteCLI, quiet_warnings
from datamodules.base import ImageDataModule, Split
from models.classifier import Classifier

QUIET = (
    *("--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.num_nodes", "1"),
    *("--trainer.logger", "false", "--trainer.enable_progress_bar", "false", "--model.weights", "null"),
)


@dataclass(frozen=True)
class FinishedRun:
    """A trained network with its data.

    Args:
        network: in evaluation mode, on the CPU.
        data: what it was trained on.
        recipe: name of the recipe.
        seed: of the run; 0 where it is not known.
        checkpoint: the file its weights are from.
        folder: of the run; None for a checkpoint that lies elsewhere.
    """

    network: Classifier
    data: ImageDataModule
    recipe: str
    seed: int
    checkpoint: Path
    folder: Path | None

    @property
    def name(self) -> str:
        """Its name in results, without folders of this machine: `mnist/lenet5/0f3a.../seed-0`."""
        return f"{self.recipe}, {self.checkpoint.name}" if self.folder is None else "/".join(self.folder.parts[-4:])

    def images(self, split: Split, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Normalised images [N, C, H, W] and labels [N]: `count` drawn with `seed`, not augmented, from `split`.

        Raises:
            DataError: there are not so many, or the data is not there.
        """
        batches = [self.data.on_after_batch_transfer(batch, 0) for batch in self.raw(split, count, seed)]
        return torch.cat([images for images, _ in batches]).contiguous(), torch.cat([labels for _, labels in batches])

    def pixels(self, split: Split, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """The same images as `images`, as pixels from 0 to 1; `normalise` makes the network's input of them."""
        images, labels = self.images(split, count, seed)
        mean, std = self._scale
        return (images * std + mean).clamp_(0, 1), labels

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixels from 0 to 1 [N, C, H, W] as the network sees them; differentiable."""
        mean, std = self._scale
        return (pixels - mean.to(pixels)) / std.to(pixels)

    def raw(self, split: Split, count: int, seed: int) -> list[tuple[Tensor, ...]]:
        """Batches of uint8 images [B, H, W, C] and labels."""
        self._open(split)
        return list(self.data.drawn(split, count, seed))

    def _open(self, split: Split) -> None:
        with quiet_warnings():
            self.data.prepare_data()
            self.data.setup("test" if split == "test" else None)

    @cached_property
    def _scale(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of pixels from 0 to 1, [C, 1, 1]; the mean [C, H, W] with one for each pixel.

        The data is opened for it, because such a mean is taken when it is.
        """
        self._open("test")
        mean, std = self.data.mean.cpu() / 255, self.data.std.cpu() / 255
        return (mean[:, None, None] if mean.dim() == 1 else mean.permute(2, 0, 1)), std[:, None, None]


def load_run(folder: str, option: str = "--run") -> FinishedRun:
    """The run in `folder`, the seed-N folder that holds recipe.yaml and checkpoints/; `option` has named it.

    Raises:
        AnalysisError: it holds none, or none that is finished.
        RunError: the checkpoint is damaged.
    """
    run = Run(Path(folder).resolve())
    for path, remedy in (
        (run.resolved_recipe, "give the folder seed-N that `fit` names when it is done"),
        (run.checkpoint, "train it first with `python -m benchmarks fit`"),
        (run.result, "finish it first with `python -m benchmarks fit`"),
    ):
        if not path.is_file():
            raise AnalysisError(f"{option} (={folder}) must hold a finished run, it has no {path.name}: {remedy}.")
    return load(run.checkpoint, str(run.resolved_recipe), run.folder, f"give another {option}, or train it again")


def load_checkpoint(file: str, recipe: str | None) -> FinishedRun:
    """The checkpoint in `file`, with the network and the data of `recipe`; default: those of the run it lies in.

    Raises:
        AnalysisError: there is no such file, no recipe is known, or the checkpoint is of another network.
        RunError: the checkpoint is damaged.
    """
    path = Path(file).resolve()
    if not path.is_file():
        raise AnalysisError(f"--ckpt (={file}) must be a file: give the checkpoints/last.ckpt of a run.")
    folder = path.parent.parent if (path.parent.parent / "recipe.yaml").is_file() else None
    if recipe is None and folder is None:
        raise AnalysisError(f"--ckpt (={file}) lies in no run, whose recipe.yaml would tell its network: add --recipe.")
    remedy = "give the --recipe it was trained with, or another --ckpt"
    if recipe is None and folder is not None:
        return load(path, str(Run(folder).resolved_recipe), folder, remedy)
    return load(path, str(recipe), None, remedy)


def load(checkpoint: Path, recipe: str, folder: Path | None, remedy: str) -> FinishedRun:
    """Build the network of `recipe` and load the weights of `checkpoint`; no random number is lost."""
    seed = folder.name.removeprefix("seed-") if folder else "0"
    check_checkpoint(checkpoint, remedy)
    seed = seed if seed.isdigit() else "0"
    with random_numbers_kept(), quiet_warnings():
        cli = SuiteCLI("test", ["--config", recipe, "--seed_everything", seed, *QUIET])
        cli.build([])
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    try:
        cli.model.load_state_dict(state)
    except RuntimeError as error:
        faults = " ".join(str(error).split())
        raise AnalysisError(
            f"{checkpoint} must fit the network of {recipe}, {type(cli.model).__name__}, name by name "
            f"({faults if len(faults) < 300 else faults[:300] + ' ...'}): {remedy}."
        ) from None
    name = "/".join(folder.parts[-4:-2]) if folder else cli.recipe.name
    return FinishedRun(cli.model.eval(), cli.datamodule, name, int(seed), checkpoint, folder)
