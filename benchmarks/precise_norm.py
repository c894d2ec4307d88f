"""Exact batch-norm statistics: averages over the training images after training, instead of moving ones.

He et al. computed theirs so (KaimingHe/deep-residual-networks: "exact average (not moving average)" over training
batches). A recipe asks for it with

    trainer:
      callbacks:
        - class_path: benchmarks.precise_norm.ExactBatchNorm
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pytorch_lightning as pl
from pytorch_lightning import Callback
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from tqdm import tqdm


class ExactBatchNorm(Callback):
    """After the last epoch, before its checkpoint is written, replaces moving averages by averages over one more epoch.

    The network's weights stay as they are. The mean and the variance of each norm become the plain averages of those of
    all batches (`torch.optim.swa_utils.update_bn`), over all ranks, with the training augmentation of the epoch after
    the last. The validation of the last epoch has already used the moving averages, the test after it uses these.
    Networks without batch norms are left alone.

    Args:
        batches: how many batches to average over, on each rank; all of an epoch if left out.
    """

    def __init__(self, batches: int | None = None) -> None:
        if batches is not None and batches < 1:
            raise ValueError(f"batches (={batches}) must be at least 1; leave it out for a whole epoch.")
        self.batches = batches

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Recompute the statistics if this was the last epoch."""
        norms = [module for module in pl_module.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        if not norms or not is_last_epoch(trainer):
            return
        with trainer.precision_plugin.forward_context():
            update_bn(self._images(trainer), pl_module)
        for norm in norms:
            for statistic in (norm.running_mean, norm.running_var):
                if statistic is not None:
                    statistic.copy_(trainer.strategy.reduce(statistic, reduce_op="mean"))

    def _images(self, trainer: pl.Trainer) -> Iterator[Tensor]:
        """Normalised images of each training batch of the epoch after the last, on the network's device."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        loader = data.train_dataloader()
        loader.sampler.set_epoch(trainer.current_epoch + 1)
        count = min(self.batches or len(loader), len(loader))
        batches = islice(loader, count)
        shown = tqdm(batches, "batch-norm statistics", count, unit=" batches", disable=not self._shows(trainer))
        for batch in shown:
            moved = data.transfer_batch_to_device(batch, trainer.strategy.root_device, 0)
            yield data.on_after_batch_transfer(moved, 0)[0]

    def _shows(self, trainer: pl.Trainer) -> bool:
        return trainer.is_global_zero and trainer.progress_bar_callback is not None


def is_last_epoch(trainer: pl.Trainer) -> bool:
    """Whether training ends with the epoch that is ending now."""
    if trainer.should_stop:
        return True
    if 0 <= trainer.max_steps <= trainer.global_step:  # -1 where there is no such limit
        return True
    return trainer.max_epochs is not None and trainer.current_epoch + 1 >= trainer.max_epochs > 0
