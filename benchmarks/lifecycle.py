"""Stopping a run in the middle of an epoch so that it goes on as if it had never stopped.

`StepCheckpoint` decides when: every few minutes, and when a signal asks the run to stop; ranks agree on both, so that
all save after the same step. `EpochState` puts into every checkpoint what Lightning leaves out of it: the random
generators of every rank, the errors counted so far in this epoch, and how far validation is.
"""

from __future__ import annotations

import logging
import random
import time
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn

from benchmarks import signals
from benchmarks.callbacks import DivergenceGuard
from benchmarks.lease import Lease
from benchmarks.runs import Run, RunError
from benchmarks.throughput import Throughput

log = logging.getLogger("benchmarks")

STEPS_BETWEEN_LOOKS = 10  # of several ranks, to agree; one rank alone looks after every step
SAVE = 1  # of what ranks agree on: the highest of their wishes, a signal's number with this added above it


class LeaseLostError(RuntimeError):
    """Another process has taken the run over, so this one must write no more."""


class Agreement:
    """Ranks agree on a number, the highest that any of them names, on a process group of their own.

    Of its own, and gloo: the default group may be in the middle of the gradients, and NCCL's would wait for the device.
    """

    def __init__(self) -> None:
        self.group: Any = None

    def connect(self) -> None:
        """Call it on every rank once the default process group exists."""
        if self.group is None and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self.group = dist.new_group(backend="gloo")

    def highest(self, number: int) -> int:
        if self.group is None:
            return number
        found = torch.tensor([number])
        dist.all_reduce(found, op=dist.ReduceOp.MAX, group=self.group)
        return int(found)

    def gather(self, thing: Any) -> list[Any]:
        """`thing` of every rank, in their order, on every rank."""
        if self.group is None:
            return [thing]
        found: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(found, thing, group=self.group)
        return found


class EpochState(Checkpoint):
    """Keeps in the checkpoint what a rank must find again in the middle of an epoch, and which images it has seen.

    With the same number of ranks a run goes on to the bit. With another one, counts are summed, and each rank's random
    numbers are seeded from (seed, step, rank).
    """

    def __init__(self, seed: int, agreement: Agreement) -> None:
        self.seed = seed
        self.agreement = agreement
        self.validation_due: bool | None = None  # None: the epoch is at its end, as Lightning's own checkpoints are
        self.ranks: list[dict[str, Any]] = []

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add every rank's state; say where in the step the run is."""
        errors = {name: tensor.cpu().clone() for name, tensor in train_errors(pl_module).metric_state.items()}
        ours = {"random": random_state(pl_module.device), "train_errors": errors}
        checkpoint["ranks"] = self.agreement.gather(ours)
        checkpoint["images"] = content_of(trainer)
        checkpoint["batches_per_step"] = trainer.accumulate_grad_batches
        if self.validation_due is not None:
            mark_step(checkpoint["loops"]["fit_loop"], self.validation_due)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the states out; count batches in those of this run, which may be parts of a step where they were not.

        Raises:
            RunError: the run has been trained on other images.
        """
        check_images(checkpoint.get("images", {}), content_of(trainer))
        self.ranks = checkpoint.get("ranks", [])
        before = checkpoint.get("batches_per_step", trainer.accumulate_grad_batches)
        rescale_batches(checkpoint["loops"]["fit_loop"], trainer.accumulate_grad_batches, before)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give this rank its state; Lightning calls this last of all callbacks, as it does every `Checkpoint`."""
        ranks, self.ranks = self.ranks, []
        if not ranks:
            return
        errors = [state["train_errors"] for state in ranks]
        if len(ranks) == trainer.world_size:
            set_random_state(ranks[trainer.global_rank]["random"], pl_module.device)
            set_counts(train_errors(pl_module), errors[trainer.global_rank])
            return
        key = [self.seed, trainer.global_step, trainer.global_rank, len(ranks)]
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))
        if trainer.is_global_zero:
            set_counts(train_errors(pl_module), {name: sum(state[name] for state in errors) for name in errors[0]})

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give every rank the averages of rank 0's batch norms, which the checkpoint holds: they are tested together.

        DDP does so only before a forward pass, and each rank's own images have moved them since the last.
        """
        if trainer.world_size > 1:
            for buffer in pl_module.buffers():
                dist.broadcast(buffer, 0)


class StepCheckpoint(Checkpoint):
    """Saves within an epoch: every `minutes`, and before the run stops for a signal.

    Args:
        run: whose checkpoint it is, and whose state.json says how far that is.
        minutes: wall-clock minutes between checkpoints, by the first rank's clock; those at ends of epochs count.
        lease: the run's lock, on the first rank.
    """

    def __init__(
        self,
        run: Run,
        minutes: float,
        agreement: Agreement,
        state: EpochState,
        guard: DivergenceGuard,
        clock: Throughput,
        lease: Lease | None,
    ) -> None:
        self.run = run
        self.minutes = minutes
        self.agreement = agreement
        self.state = state
        self.guard = guard
        self.clock = clock
        self.lease = lease
        self.last_saved = time.monotonic()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let ranks agree."""
        self.agreement.connect()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From here on there is something to lose; what was asked until now stops the run here."""
        signals.stop_after_step()
        self.last_saved = time.monotonic()
        self._stop(trainer, self._agreed(trainer))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look after whole optimizer steps; the last one of an epoch is followed by the checkpoint of its end."""
        batches = batch_idx + 1
        if batches % trainer.accumulate_grad_batches or batches >= trainer.num_training_batches:
            return
        if trainer.world_size > 1 and batches // trainer.accumulate_grad_batches % STEPS_BETWEEN_LOOKS:
            return
        wish = self._agreed(trainer)
        if wish:
            loop = trainer.fit_loop.epoch_loop
            fetcher = trainer.fit_loop._data_fetcher
            assert fetcher is not None
            self._save(trainer, pl_module, validation_due=loop._should_check_val_fx(fetcher))
            self._stop(trainer, wish)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """A signal stops validation too, which is done anew when the run goes on."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        wish = self._agreed(trainer)
        if wish > SAVE:
            self._save(trainer, pl_module, validation_due=True)
            self._stop(trainer, wish)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The epoch's checkpoint has just been saved; after the last epoch there is only evaluation left."""
        self._note_saved(trainer, trainer.current_epoch + 1)
        self._stop(trainer, self._agreed(trainer))

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Evaluation starts again when the run goes on."""
        self._stop(trainer, self._agreed(trainer))

    def _agreed(self, trainer: pl.Trainer) -> int:
        """0 to go on, `SAVE`, or the number of a signal above it: the same on every rank.

        Raises:
            LeaseLostError: the run belongs to another process now.
        """
        if self.lease is not None and self.lease.lost:
            raise LeaseLostError(
                f"{self.run.folder} was taken over by {self.lease.describe()}, for this process was not heard "
                "of for too long: it stops and writes no more."
            )
        due = trainer.is_global_zero and time.monotonic() - self.last_saved >= 60 * self.minutes
        signum = signals.asked()
        return self.agreement.highest(SAVE + signum if signum else SAVE * due)

    def _save(self, trainer: pl.Trainer, pl_module: pl.LightningModule, validation_due: bool) -> None:
        self.guard.check(trainer, pl_module)
        with self.clock.paused(pl_module.device):
            self.state.validation_due = validation_due
            try:
                trainer.save_checkpoint(self.run.checkpoint)
            finally:
                self.state.validation_due = None
        self._note_saved(trainer, trainer.current_epoch)

    def _note_saved(self, trainer: pl.Trainer, epochs: int) -> None:
        self.last_saved = time.monotonic()
        if trainer.is_global_zero:
            self.run.write_state("running", step=trainer.global_step, epoch=epochs)

    def _stop(self, trainer: pl.Trainer, wish: int) -> None:
        if wish > SAVE:
            raise signals.RunStopped(wish - SAVE)


def content_of(trainer: pl.Trainer) -> dict[str, str]:
    """Checksums of the images and labels of training and test."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    return {split: data.manifest(split).content for split in ("train", "test")}


def check_images(before: dict[str, str], now: dict[str, str]) -> None:
    """A run goes on with the images it began with; checkpoints of old did not say which.

    Raises:
        RunError: there are others now.
    """
    for split, content in before.items():
        if content != now[split]:
            raise RunError(
                f"the {split} images (checksum {now[split][:12]}) must be those that the run began with (checksum "
                f"{content[:12]}): give --data.root or $ILSVRC_BENCH_DATA their folder, or train anew with --again."
            )


def without_signals(trainer: pl.Trainer) -> None:
    """Keep Lightning's own handling of signals away from `trainer`.

    Its handler of SIGTERM talks to other ranks from within whatever was interrupted, which deadlocks. Its loop asks
    them before every batch, which costs a wait for the device; `StepCheckpoint` does so more cheaply.
    """
    trainer._signal_connector.register_signal_handlers = nothing  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = nothing  # type: ignore[method-assign]


def nothing() -> None:
    """Do nothing."""


def mark_step(loop: dict[str, Any], validation_due: bool) -> None:
    """Make Lightning's saved state of its fit loop say that a batch is done, and whether validation follows it.

    Lightning saves in a hook of the batch, where its own counters are half way; read back, they would lose a validation
    or, after an epoch's last batch, the end of the epoch.
    """
    progress = loop["epoch_loop.batch_progress"]
    for part in ("total", "current"):
        progress[part]["completed"] = progress[part]["processed"]
    begun = int(validation_due)  # a validation that has started one batch and finished none is run anew
    counts = {"ready": begun, "started": begun, "processed": 0, "completed": 0}
    loop["epoch_loop.val_loop.batch_progress"].update(total=counts, current=dict.fromkeys(counts, 0))
    if not validation_due:
        loop["epoch_loop.state_dict"]["_batches_that_stepped"] += 1


def rescale_batches(loop: dict[str, Any], now: int, before: int) -> None:
    """Turn counts of batches into those of a run that takes `now` batches for an optimizer step, `before` it took."""
    for counts in (loop["epoch_loop.batch_progress"][part] for part in ("total", "current")):
        for name in counts:
            counts[name] = counts[name] // before * now


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of every random generator of this process, in types that a checkpoint may hold."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = cast("tuple[Any, ...]", np.random.get_state())
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "python": (version, list(words), gauss),
        "numpy": (str(name), torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)),
    }


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Bring every random generator back to `state`; CUDA's only where there was one and is one."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))


def train_errors(network: pl.LightningModule) -> Any:
    """The errors of training that a `Classifier` counts."""
    return network.train_errors


def set_counts(metric: Any, counts: dict[str, torch.Tensor]) -> None:
    """Let a metric go on from `counts`, on its own device; in their precision, also where the network has less."""
    metric.reset()
    for name, count in counts.items():
        setattr(metric, name, count.to(metric.device, copy=True))
    metric._update_count = 1  # torchmetrics warns of a metric that is computed before it was updated
