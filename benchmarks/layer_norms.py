"""The norms of each layer's weights, of their way from the start, and of their gradients, epoch by epoch. A recipe asks
for it with

    trainer:
      callbacks:
        - class_path: benchmarks.layer_norms.LayerNorms

What it costs is written down beside what it finds: the weights once more in memory and in checkpoints, a pass over them
at the end of an epoch, and one over the gradients in every so many steps. Of `mnist/lenet5` on a busy core it was
0.03 s of an epoch's 41 s.
"""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from torch import Tensor

from benchmarks.callbacks import as_lines
from benchmarks.hessian_spectrum import beside_epochs, rounded
from benchmarks.tables import read_rows
from datamodules.files import write_whole

COLUMNS = ("epoch", "step", "layer", "norm", "moved", "gradient", "seconds")
ALL = "all"  # the row of all layers together


class LayerNorms(Callback):
    """Keeps layer_norms.csv in the run's folder: for each epoch a row for all layers together and one for each.

    `norm` is the length of the layer's weights, scales and shifts that are trained, taken together; `moved` that of
    their difference from the start; `gradient` the root mean square, over the epoch's steps that are looked at, of the
    length of their gradients as the optimizer gets them: averaged over ranks and accumulated batches, and before
    `gradient_clip_val` clips them. `seconds`, in the row of all layers, is what the epoch took for it. Epoch -1 is the
    start. Weights and gradients are the same on every rank, and only the first one looks at them. Training is the same
    to the last digit with it and without.

    Args:
        every_steps: gradients are looked at in one of so many steps of the optimizer.
    """

    def __init__(self, every_steps: int = 10) -> None:
        if every_steps < 1:
            raise ValueError(f"every_steps (={every_steps}) must be at least 1, every step: use 10.")
        self.every_steps = every_steps
        self.start: list[Tensor] = []  # weights before the first step, layer by layer, on the CPU
        self.sums: Tensor | None = None  # of the squared lengths of gradients in this epoch, on the device. [layers]
        self.looks = 0  # steps of this epoch that were looked at
        self.seconds = 0.0
        self.rows: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """The start, which nobody can know later, and what the next row is made of."""
        sums = None if self.sums is None else self.sums.cpu()
        return {"start": self.start, "sums": sums, "looks": self.looks, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up."""
        self.start, self.sums, self.looks, self.seconds = (
            state_dict[name] for name in ("start", "sums", "looks", "seconds")
        )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights, unless the checkpoint had them; add the row of the start."""
        started = time.perf_counter()
        self.path = beside_epochs(trainer, "layer_norms.csv", type(self).__name__)
        self.layers = layers_of(pl_module)
        if not trainer.is_global_zero:
            return
        self.rows = [row for row in read_rows(self.path) if int(row["epoch"]) < trainer.current_epoch]
        if not self.start:
            self.start = [flat(weights) for weights in self.layers.values()]
            self.rows, self.seconds = [], time.perf_counter() - started
            self._add(-1, trainer)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Add up squared lengths of gradients; the host does not wait for them."""
        if trainer.global_step % self.every_steps or not trainer.is_global_zero:
            return
        started = time.perf_counter()
        slopes = [[p.grad for p in weights if p.grad is not None] for weights in self.layers.values()]
        lengths = torch.stack([squared(some) if some else torch.zeros((), device=pl_module.device) for some in slopes])
        self.sums = lengths if self.sums is None else self.sums.to(lengths.device) + lengths
        self.looks += 1
        self.seconds += time.perf_counter() - started

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the epoch's rows."""
        if trainer.is_global_zero:
            self._add(trainer.current_epoch, trainer)

    def _add(self, epoch: int, trainer: pl.Trainer) -> None:
        started = time.perf_counter()
        now = [flat(weights) for weights in self.layers.values()]
        squares = {
            "norm": [float(one.double().square().sum()) for one in now],
            "moved": [float((one - old).double().square().sum()) for one, old in zip(now, self.start, strict=True)],
            "gradient": [] if self.sums is None else (self.sums / self.looks).tolist(),
        }
        seconds = self.seconds + time.perf_counter() - started
        for place, layer in enumerate([ALL, *self.layers]):
            row: dict[str, Any] = {"epoch": epoch, "step": trainer.global_step, "layer": layer}
            for name, values in squares.items():
                if values:
                    row[name] = (sum(values) if layer == ALL else values[place - 1]) ** 0.5
            self.rows.append(row | ({"seconds": seconds} if layer == ALL else {}))
        self.sums, self.looks, self.seconds = None, 0, 0.0
        write_whole(self.path, as_lines(COLUMNS, [rounded(row) for row in self.rows], header=True))


def layers_of(network: torch.nn.Module) -> dict[str, list[torch.nn.Parameter]]:
    """The parameters that are trained, by the module that has them; `network` for those of the network itself."""
    found = {
        name or "network": [p for p in module.parameters(recurse=False) if p.requires_grad]
        for name, module in network.named_modules()
    }
    return {name: weights for name, weights in found.items() if weights}


def flat(weights: list[torch.nn.Parameter]) -> Tensor:
    """A copy of the numbers of several tensors, one after the other, on the CPU."""
    return torch.cat([one.detach().flatten() for one in weights]).cpu().clone()


def squared(tensors: list[Tensor]) -> Tensor:
    """The squared length of several tensors together, in single precision at least, where they are."""
    lengths = torch._foreach_norm([one.detach().float() for one in tensors])
    return torch.stack(lengths).square().sum()
