"""Any network of torchvision or timm by name, trained and evaluated as the suite's own: GoogLeNet, SENet-154."""

from __future__ import annotations

import difflib
from typing import Any, Literal

from torch import Tensor

from models.classifier import Classifier, check_choice, load_state, read_state

PREFIX = "network."  # of the weights in this suite's own checkpoints


class Zoo(Classifier):
    """The network `name` of `library`, with random weights. [B, 3, H, W] -> [B, num_classes]

    `timm.list_models()` and `torchvision.models.list_models()` list the names. Published weights are a file to download
    and give as `--model.weights`; it may also be a checkpoint of this suite. torchvision's published GoogLeNet and
    Inception expect `options: {transform_input: true}` besides, images normalised as for all of its networks. Where the
    paper's GoogLeNet has 5x5 kernels torchvision's has 3x3 (pytorch/vision#906).

    The switches of the suite's own networks (skip, norm) are not there; `options` holds whatever switches the library
    has, such as timm's `drop_rate`.

    Args:
        name: the library's name of the network, such as `googlenet` or `legacy_senet154`.
        library: `torchvision` or `timm`.
        options: keyword arguments for the library's builder.
        auxiliary_weight: share of the loss of each auxiliary classifier in training (GoogLeNet, section 5: 0.3).
        num_classes: number of classes; comes from the dataset.
        classifier: see `models.classifier.Classifier`.
    """

    def __init__(
        self,
        name: str,
        library: Literal["torchvision", "timm"] = "torchvision",
        options: dict[str, Any] | None = None,
        auxiliary_weight: float = 0.3,
        num_classes: int = 1000,
        **classifier: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **classifier)
        check_choice("library", library, ("torchvision", "timm"))
        check_name(name, library)
        if "num_classes" in (options or {}):
            raise ValueError(f"options (={options}) must not have num_classes: it comes from the dataset. Remove it.")
        if {"pretrained", "weights"} & set(options or {}):
            raise ValueError(
                f"options (={options}) must not ask for weights, nothing is downloaded: give a file of them as "
                "model.init_args.weights."
            )
        if auxiliary_weight < 0:
            raise ValueError(
                f"auxiliary_weight (={auxiliary_weight}) must not be negative; 0 ignores such classifiers."
            )
        self.auxiliary_weight = auxiliary_weight
        try:
            self.network = build(name, library, {**(options or {}), "num_classes": num_classes})
        except Exception as error:  # whatever the library thinks of the options
            raise ValueError(
                f"options (={options}) must be what {library} takes for {name} ({error}): remove or correct what it "
                "refuses."
            ) from None

    def forward(self, x: Tensor) -> Tensor:
        return main_and_auxiliary(self.network(x))[0]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """One step; auxiliary classifiers, where there are any in training, add their share of the loss."""
        images, labels = batch
        logits, auxiliary = main_and_auxiliary(self.network(images))
        loss = self.loss(logits, labels)
        self.train_errors.update(logits.detach(), labels, loss.detach())
        for other in auxiliary:
            loss = loss + self.auxiliary_weight * self.loss(other, labels)
        return loss

    def load_weights(self) -> None:
        """Load the file that `weights` names: of the library's network, or of this suite, whose names have a prefix."""
        if self.weights is None:
            return
        ours = all(name.startswith(PREFIX) for name in read_state(self.weights))
        load_state(self if ours else self.network, self.weights)


def build(name: str, library: str, arguments: dict[str, Any]) -> Any:
    """The library's network, with random weights: nothing is downloaded."""
    if library == "timm":
        import timm

        return timm.create_model(name, pretrained=False, **arguments)
    import torchvision

    if name in ("googlenet", "inception_v3"):  # their own slow initialisation is the default until they change it
        arguments = {"init_weights": True, **arguments}
    return torchvision.models.get_model(name, weights=None, **arguments)


def check_name(name: str, library: str) -> None:
    """Refuse a network that the library does not have.

    Raises:
        ValueError: with the closest names.
    """
    if library == "timm":
        import timm

        names = timm.list_models()
    else:
        import torchvision

        names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}?" if close else f"{library} has {len(names)} others."
        raise ValueError(f"name (={name}) must be a network of {library}: {hint}")


def main_and_auxiliary(output: Any) -> tuple[Tensor, list[Tensor]]:
    """The logits [B, K], and those of auxiliary classifiers, of what a network returned in either mode."""
    if isinstance(output, Tensor):
        return output, []
    return output[0], [other for other in output[1:] if other is not None]
