"""Switches that make training faster and may change its last digits, which is why they are off unless asked for."""

from __future__ import annotations

from typing import Literal

import pytorch_lightning as pl
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback


class Compiled(Callback):
    """Compiles the network with `torch.compile`; checkpoints keep the names of the weights.

    `--trainer.callbacks+=benchmarks.switches.Compiled`. The first step then takes seconds to minutes. Fused kernels
    round otherwise, so errors agree within seeds and not to the last digit; it is another run, with its own identity.

    Args:
        mode: `default` fuses operations; `reduce-overhead` replays the step as CUDA graphs too, for networks whose
            kernels are shorter than their launches; `max-autotune` also tries kernels, for minutes.
    """

    def __init__(self, mode: Literal["default", "reduce-overhead", "max-autotune"] = "default") -> None:
        self.mode = mode

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compile the forward pass, and with it the backward pass; batches of another shape compile anew.

        Raises:
            MisconfigurationException: CUDA graphs with gradients of several batches, which they would write over.
        """
        if self.mode != "default":
            if trainer.accumulate_grad_batches > 1:
                raise MisconfigurationException(
                    f"Compiled's mode (={self.mode}) replays CUDA graphs, whose gradients the next batch writes over: "
                    f"with accumulate_grad_batches (={trainer.accumulate_grad_batches}) use mode: default."
                )
            pl_module.train_errors.NOTED = 0  # type: ignore[union-attr]  # graphs write the next logits over these
        pl_module.compile(mode=self.mode)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate the network as it is written."""
        for module in pl_module.modules():
            module._compiled_call_impl = None
