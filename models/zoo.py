"""Any network of torchvision or timm by name, trained and evaluated as the suite's own: GoogLeNet, SENet-154."""

from __future__ import annotations

import difflib
from typing import Any, Literal

from torch import Tensor, nn

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
        stem: `cifar` replaces what torchvision's GoogLeNet, Inception v3 and DenseNets have before their first block by
            one 3x3 convolution, for images of 32 x 32 pixels; see `cifar_stem`. `library` leaves it.
        auxiliary_weight: share of the loss of each auxiliary classifier in training (GoogLeNet, section 5: 0.3).
        num_classes: number of classes; comes from the dataset.
        classifier: see `models.classifier.Classifier`.
    """

    def __init__(
        self,
        name: str,
        library: Literal["torchvision", "timm"] = "torchvision",
        options: dict[str, Any] | None = None,
        stem: Literal["library", "cifar"] = "library",
        auxiliary_weight: float = 0.3,
        num_classes: int = 1000,
        **classifier: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **classifier)
        check_choice("library", library, ("torchvision", "timm"))
        check_choice("stem", stem, ("library", "cifar"))
        check_name(name, library)
        if stem == "cifar" and (
            library != "torchvision" or not name.startswith(("googlenet", "inception_v3", "densenet"))
        ):
            raise ValueError(
                f"stem (=cifar) is known of torchvision's googlenet, inception_v3 and densenets, not of {library}'s "
                f"{name}: set it to library."
            )
        if "num_classes" in (options or {}):
            raise ValueError(f"options (={options}) must not have num_classes: it comes from the dataset. Remove it.")
        if {"pretrained", "weights", "checkpoint_path"} & set(options or {}):
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
        if stem == "cifar":
            cifar_stem(self.network)

    def forward(self, x: Tensor) -> Tensor:
        return main_and_auxiliary(self.network(x))[0]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """One step; auxiliary classifiers, where there are any in training, add their share of the loss."""
        images, labels = batch
        logits, auxiliary = main_and_auxiliary(self.network(images))
        loss = self.loss(logits, labels)
        self.train_errors.note(logits.detach(), labels, loss.detach())
        for other in auxiliary:
            loss = loss + self.auxiliary_weight * self.loss(other, labels)
        return loss

    def compile(self, *arguments: Any, **settings: Any) -> None:
        """Compile the library's network, which `training_step` calls by itself."""
        self.network.compile(*arguments, **settings)

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


def cifar_stem(network: Any) -> None:
    """Give torchvision's GoogLeNet, Inception v3 or DenseNet a stem for 32 x 32 pixels, in place.

    As huyvnphan/PyTorch_CIFAR10 does: one 3x3 convolution, stride 1, makes the maps that the first block expects. Of
    GoogLeNet's pools the last two are 3x3 with padding, so that 32 pixels end as 8; DenseNet keeps its first pool. New
    convolutions have torch's own weights, DenseNet's He's, as all of its.
    """
    if hasattr(network, "features"):
        first = nn.Conv2d(3, network.features.conv0.out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(first.weight)
        network.features.conv0 = first
        return
    name, dropped = "conv1", ["maxpool1", "conv2", "conv3", "maxpool2"]
    if hasattr(network, "Conv2d_1a_3x3"):
        name = "Conv2d_1a_3x3"
        dropped = ["Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2"]
    else:
        network.maxpool3 = nn.MaxPool2d(3, 2, padding=1)
        network.maxpool4 = nn.MaxPool2d(3, 2, padding=1)
    setattr(network, name, type(getattr(network, name))(3, 192, kernel_size=3, padding=1))
    for layer in dropped:
        setattr(network, layer, nn.Identity())


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
