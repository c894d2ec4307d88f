"""What every network has in common when it is trained: loss, counted errors, optimizer, schedule. No layers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics import Metric

IGNORED_LABEL = -100  # marks an image that only fills up a batch; torch's own cross-entropy skips it too

NORM_LAYERS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


class Classifier(pl.LightningModule):
    """A network that maps images [B, C, H, W] to logits [B, num_classes]. Subclasses add layers and `forward`.

    Args:
        num_classes: number of classes; comes from the dataset.
        optimizer: the optimizer, as `class_path` and `init_args` without `params`.
        lr_scheduler: the learning-rate schedule, as `class_path` and `init_args` without `optimizer`.
        lr_interval: when the schedule takes a step: after every `epoch` or after every optimizer `step`.
        loss: `cross_entropy`, or `mse` against targets of +1 for the class and -1 for the others (LeCun et al. 1989).
        label_smoothing: share of the target probability spread over all classes, 0 to 1 (cross-entropy only).
        decay_norm: whether weight decay acts on the scales and shifts of normalisation layers.
        decay_bias: whether weight decay acts on biases.
        weights: file with weights to start from: a state dict such as torchvision publishes, or a checkpoint of this
            suite. It must fit the network name by name. `load_weights` reads it, which the commands
            call once the network is built.
    """

    def __init__(
        self,
        num_classes: int,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_interval: Literal["epoch", "step"] = "epoch",
        loss: Literal["cross_entropy", "mse"] = "cross_entropy",
        label_smoothing: float = 0.0,
        decay_norm: bool = True,
        decay_bias: bool = True,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(
                f"num_classes (={num_classes}) must be at least 2: use a dataset with two classes or more."
            )
        check_choice("loss", loss, ("cross_entropy", "mse"))
        check_choice("lr_interval", lr_interval, ("epoch", "step"))
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing (={label_smoothing}) must lie in [0, 1): use 0 for none.")
        if label_smoothing and loss == "mse":
            raise ValueError(f"label_smoothing (={label_smoothing}) needs loss: cross_entropy; set it to 0 for mse.")
        self.num_classes = num_classes
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.lr_interval = lr_interval
        self.loss_name = loss
        self.label_smoothing = label_smoothing
        self.decay_norm = decay_norm
        self.decay_bias = decay_bias
        self.weights = weights
        self.train_errors = ErrorCount()
        self.val_errors = ErrorCount()

    def __setattr__(self, name: str, value: Any) -> None:
        """As ever, but at once for the name of the running hook, which Lightning sets 30 times a step.

        The module's own way looks first whether the value is a parameter, a buffer or a layer.
        """
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def load_weights(self) -> None:
        """Load the file that `weights` names, if it names one; call it when all layers are made.

        Raises:
            ValueError: the file is missing, is no file of weights, or is of another network.
        """
        if self.weights is not None:
            load_state(self, self.weights)

    def logit_maps(self, images: Tensor) -> Tensor:
        """Logits at every position of the fully convolutional form. [B, C, H, W] -> [B, num_classes, h, w]

        For images larger than the network's own (Sermanet et al. 2014, "OverFeat"; Simonyan, Zisserman 2015, 3.2).

        Raises:
            ValueError: the network has no such form.
        """
        raise ValueError(
            f"{type(self).__name__} has no fully convolutional form, which dense evaluation needs: use 1crop or 10crop."
        )

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of `logits` [B, K] for `labels` [B]; images labelled `IGNORED_LABEL` do not count."""
        if self.loss_name == "cross_entropy":
            return F.cross_entropy(logits, labels, ignore_index=IGNORED_LABEL, label_smoothing=self.label_smoothing)
        return plus_minus_one_mse(logits, labels)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss = self.loss(logits, labels)
        self.train_errors.note(logits.detach(), labels, loss.detach())
        return loss

    def on_train_epoch_end(self) -> None:
        self._log_errors("train", self.train_errors)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = self(images)
        self.val_errors.update(logits, labels, self.loss(logits, labels))

    def on_validation_epoch_end(self) -> None:
        self._log_errors("val", self.val_errors)

    def _log_errors(self, stage: str, errors: ErrorCount) -> None:
        """Log once an epoch: `ErrorCount` has already summed over steps and sums over ranks here."""
        found = errors.compute()
        self.log_dict({f"{stage}/{name}": found[name] for name in ("loss", "top1_error", "top5_error")})
        errors.reset()

    def configure_optimizers(self) -> Any:
        if self.optimizer is None:
            raise ValueError(
                f"{type(self).__name__} was built without an optimizer: give model.init_args.optimizer in the recipe."
            )
        optimizer = self.optimizer(self.parameter_groups())
        if self.lr_scheduler is None:
            return optimizer
        scheduler = self.lr_scheduler(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": self.lr_interval}}

    def parameter_groups(self) -> Iterable[dict[str, Any]]:
        """Parameters with weight decay and, where `decay_norm` or `decay_bias` ask for it, a group without."""
        spared = undecayed(self, norm=not self.decay_norm, bias=not self.decay_bias)
        decayed = [p for p in self.parameters() if p not in spared]
        groups: list[dict[str, Any]] = [{"params": decayed}]
        if spared:
            groups.append({"params": [p for p in self.parameters() if p in spared], "weight_decay": 0.0})
        return groups


def read_state(path: str) -> dict[str, Tensor]:
    """The state dict in a file of weights, or in a checkpoint of Lightning.

    Raises:
        ValueError: there is no such file, or it holds something else.
    """
    if not Path(path).is_file():
        raise ValueError(f"weights (={path}) must be a file: download it first, nothing is fetched by itself.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch and pickle make of it; torch's own text advises to load it unsafely
        raise ValueError(
            f"weights (={path}) must be a whole file of tensors that torch.save wrote, it cannot be read as one "
            f"({type(error).__name__}): download it again, or save its state dict alone."
        ) from None
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"weights (={path}) must hold a state dict, names and tensors; it holds something else.")
    return state


def load_state(network: nn.Module, path: str) -> None:
    """Load the state dict in the file at `path` into `network`, every name of it and no other, finite numbers all.

    Raises:
        ValueError: the file is unfit; the message says how many names and shapes differ, and the first few.
    """
    ours = network.state_dict()
    # Files of torch before 0.4.1 have no counts of batches; nothing here reads them, so the network's own may stay.
    counts = {name: ours[name] for name in ours if name.endswith(".num_batches_tracked")}
    theirs = {**counts, **read_state(path)}
    missing = sorted(set(ours) - set(theirs))
    unknown = sorted(set(theirs) - set(ours))
    shapes = [
        f"{name} {list(theirs[name].shape)} instead of {list(ours[name].shape)}"
        for name in ours
        if name in theirs and theirs[name].shape != ours[name].shape
    ]
    broken = sorted(name for name, tensor in theirs.items() if not tensor.isfinite().all())
    faults = {"missing": missing, "unknown": unknown, "of another shape": shapes, "with NaN or infinity": broken}
    found = [f"{len(names)} {what} ({', '.join(names[:3])})" for what, names in faults.items() if names]
    if found:
        raise ValueError(
            f"weights (={path}) must fit {type(network).__name__} name by name: {'; '.join(found)}. Take the file of "
            "this very network, or change the network's settings to it."
        )
    network.load_state_dict(theirs)


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a switch that is in no position. Types do so on the command line; this is for Python.

    Raises:
        ValueError: `value` is not one of `allowed`.
    """
    if value not in allowed:
        raise ValueError(f"{name} (={value}) must be one of {', '.join(allowed)}.")


def check_in_channels(in_channels: int) -> None:
    """Refuse images without a channel: torch would build layers that see nothing and then stop at the first image.

    Raises:
        ValueError: as said.
    """
    if in_channels < 1:
        raise ValueError(f"in_channels (={in_channels}) must be at least 1: 3 for colour images, 1 for gray ones.")


def undecayed(network: nn.Module, norm: bool, bias: bool) -> set[nn.Parameter]:
    """Parameters that weight decay leaves alone, chosen by the type of their module: norm layers and/or biases."""
    spared: set[nn.Parameter] = set()
    for module in network.modules():
        is_norm = isinstance(module, NORM_LAYERS)
        if is_norm and norm:
            spared.update(module.parameters(recurse=False))
        shift = getattr(module, "bias", None)
        if not is_norm and bias and isinstance(shift, nn.Parameter):
            spared.add(shift)
    return spared


def plus_minus_one_mse(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error of `logits` [B, K] to targets +1 and -1, summed over classes, averaged over counted images.

    LeCun et al. 1989, "Backpropagation Applied to Handwritten Zip Code Recognition".
    """
    counted = labels != IGNORED_LABEL
    targets = 2.0 * F.one_hot(labels.clamp(min=0), logits.shape[1]).to(logits.dtype) - 1.0
    return torch.where(counted, (logits - targets).square().sum(1), 0).sum() / counted.sum()


class ErrorCount(Metric):
    """Counts wrong predictions as integers, over batches and over ranks, so that errors are exact.

    `compute()` gives `top1_error` and `top5_error` in percent and the mean `loss`, and the integers `wrong1`, `wrong5`
    (images whose label is not the best, not among the five best) and `count` (images counted).
    """

    full_state_update = False
    NOTED = 2**16  # logits that are kept before they are counted; counting takes some 25 small operations
    wrong1: Tensor
    wrong5: Tensor
    count: Tensor
    loss_sum: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._noted: list[tuple[Tensor, Tensor, Tensor]] = []
        for name in ("wrong1", "wrong5", "count"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("loss_sum", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor, loss: Tensor | None = None) -> None:
        """Count `logits` [B, K] against `labels` [B]. Makes no host-device sync.

        `loss` is the batch's mean loss; several of them [n] are those of n equal parts of the batch, in order.
        """
        counted = labels != IGNORED_LABEL
        count = counted.sum()
        right = rank_of_label(logits, labels)
        self.wrong1 += count - (right < 1).sum()
        self.wrong5 += count - (right < 5).sum()
        self.count += count
        if loss is not None:
            losses = loss.reshape(-1).double()
            counts = counted.reshape(len(losses), -1).sum(1)
            sums = torch.where(counts > 0, losses * counts, 0.0)
            # One after the other, so that on a CPU the sum is the same to the last bit however the batches come.
            self.loss_sum = torch.cat([self.loss_sum.reshape(1), sums]).cumsum(0)[-1]

    def note(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """As `update`, but counted later, many batches at once. The tensors must not be written to afterwards."""
        if self._noted and self._noted[0][0].shape != logits.shape:
            self.flush()
        self._noted.append((logits, labels, loss))
        if len(self._noted) * logits.numel() >= self.NOTED:
            self.flush()

    def flush(self) -> None:
        """Count what was noted; whoever reads the counts finds this done."""
        if self._noted:
            logits, labels, losses = zip(*self._noted, strict=True)
            self._noted = []
            self.update(torch.cat(logits), torch.cat(labels), torch.stack(losses))

    def reset(self) -> None:
        """Back to nothing counted and nothing noted."""
        self._noted = []
        super().reset()

    @property
    def metric_state(self) -> dict[str, Any]:
        """The counts so far."""
        self.flush()
        return super().metric_state

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        """Before torchmetrics looks whether anything was counted, let it be."""
        wrapped = super()._wrap_compute(compute)

        @functools.wraps(compute)
        def flushed() -> Any:
            self.flush()
            return wrapped()

        return flushed

    def compute(self) -> dict[str, Tensor]:
        count = self.count.clamp(min=1)
        return {
            "top1_error": 100.0 * self.wrong1 / count,
            "top5_error": 100.0 * self.wrong5 / count,
            "loss": self.loss_sum / count,
            "wrong1": self.wrong1,
            "wrong5": self.wrong5,
            "count": self.count,
        }


def rank_of_label(logits: Tensor, labels: Tensor) -> Tensor:
    """Place of each image's label among `logits` [B, K], best first: 0 is top-1 correct, below 5 is top-5 correct. [B]

    Ties go to the lower class index, as in `argmax`. NaN logits count as wrong, and `IGNORED_LABEL` is never in place.
    """
    label = labels.clamp(min=0).unsqueeze(1)
    own = logits.gather(1, label)
    ahead = ~(logits <= own)
    ahead |= (logits == own) & (torch.arange(logits.shape[1], device=logits.device) < label)
    nowhere = (labels == IGNORED_LABEL) | own.isnan().squeeze(1)
    return ahead.sum(1).masked_fill(nowhere, logits.shape[1] + 5)  # beyond fifth place, also of fewer than 5 classes
