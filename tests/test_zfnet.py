"""ZFNet against the sizes of its figure and counts by hand; its limit on filters, switches, positions, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from models.zfnet import ZFNet, limit_filters

SMALL: dict[str, Any] = {"widths": [4, 6, 8, 12, 6], "hidden": 10, "num_classes": 7}


def random_images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def convolutions(network: ZFNet) -> list[nn.Conv2d]:
    return [layer for layer in network.features if isinstance(layer, nn.Conv2d)]


def test_maps_have_the_sizes_of_figure_3() -> None:
    """96 maps of 110 pixels, pooled 55; 256 of 26, pooled 13; 384, 384 and 256 of 13; pooled 6: 9216 numbers."""
    with torch.device("meta"):
        network, x = ZFNet(), torch.empty(1, 3, 224, 224)
    sizes = []
    for layer in network.features:
        x = layer(x)
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            sizes.append(tuple(x.shape[1:3]))
    assert sizes == [(96, 110), (96, 55), (256, 26), (256, 13), (384, 13), (384, 13), (256, 13), (256, 6)]
    assert x.numel() == 9216
    assert [layer.kernel_size[0] for layer in convolutions(network)] == [7, 5, 3, 3, 3]


def test_parameters() -> None:
    """Kernels, a bias each, and the layers of 4096, 4096 and 1000 units; Table 2 (b) is wider in the middle."""
    with torch.device("meta"):
        networks = ZFNet(), ZFNet(widths=[96, 256, 512, 1024, 512])
        switched = ZFNet(norm="none"), ZFNet(skip=True), ZFNet(dropout=0.0)
        batch = ZFNet(norm="batch")
    for network, (c, d, e) in zip(networks, [(384, 384, 256), (512, 1024, 512)], strict=True):
        maps = 96 * (49 * 3 + 1) + 256 * (25 * 96 + 1) + c * (9 * 256 + 1) + d * (9 * c + 1) + e * (9 * d + 1)
        assert parameters(network) == maps + 4096 * (36 * e + 1) + 4096 * 4097 + 1000 * 4097
    assert [parameters(network) for network in networks] == [62_357_608, 107_627_624]
    assert {parameters(network) for network in switched} == {62_357_608}
    assert parameters(batch) - 62_357_608 == 2 * (96 + 256 + 384 + 384 + 256)


def test_norms_stand_where_figure_3_has_them() -> None:
    def names(network: ZFNet) -> str:
        short = {"Conv2d": "c", "BatchNorm2d": "b", "ReLU": "r", "LocalResponseNorm": "l", "MaxPool2d": "p"}
        return "".join(short[type(layer).__name__] for layer in network.features)

    assert names(ZFNet(**SMALL)) == "crplcrplcrcrcrp"
    assert names(ZFNet(norm="none", **SMALL)) == "crpcrpcrcrcrp"
    assert names(ZFNet(norm="batch", **SMALL)) == "cbrpcbrpcbrcbrcbrp"


def test_it_starts_with_the_papers_weights() -> None:
    torch.manual_seed(0)
    network, batch = ZFNet(hidden=64), ZFNet(hidden=64, norm="batch")
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert layer.weight.std().item() == pytest.approx(0.01, rel=0.05)
            assert not layer.bias.any()
    assert convolutions(batch)[2].weight.std().item() == pytest.approx((2 / (9 * 384)) ** 0.5, rel=0.02)


# The limit on filters


def test_filters_are_scaled_back_by_hand() -> None:
    layer = nn.Conv2d(1, 3, 2, bias=False)
    layer.weight.data = torch.tensor([[3.0, -3, 3, -3], [0.1, 0.1, -0.1, 0.1], [0.0, 0.0, 0.0, 0.0]]).view(3, 1, 2, 2)
    network = nn.Sequential(layer, nn.Linear(1, 1))
    linear = nn.init.constant_(network[1].weight, 5.0).clone()
    limit_filters(network, 0.3)
    rows = layer.weight.flatten(1)
    torch.testing.assert_close(rows[0], torch.tensor([0.3, -0.3, 0.3, -0.3]))
    torch.testing.assert_close(rows[1], torch.tensor([0.1, 0.1, -0.1, 0.1]))
    assert rows[2].tolist() == [0.0, 0.0, 0.0, 0.0]
    assert torch.equal(network[1].weight, linear)  # only filters of convolutions


def test_the_limit_acts_after_every_step_and_can_be_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pl.LightningModule, "optimizer_step", lambda *_: None)
    for limit, expected in ((0.1, 0.1), (0.0, 1.0)):
        network = ZFNet(max_filter_rms=limit, **SMALL)
        for layer in convolutions(network):
            nn.init.ones_(layer.weight)
        network.optimizer_step(0, 0, None, None)
        for layer in convolutions(network):
            torch.testing.assert_close(layer.weight, torch.full_like(layer.weight, expected))


@pytest.mark.filterwarnings("ignore")  # Lightning's, of loaders without workers
def test_what_callbacks_see_after_a_step_is_limited() -> None:
    """Lightning calls them before the network's own hooks, and a checkpoint within an epoch is saved by one."""
    seen: list[float] = []

    class Look(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            seen.extend(
                float(layer.weight.detach().square().mean((1, 2, 3)).max()) for layer in convolutions(pl_module)
            )

    torch.manual_seed(0)
    network = ZFNet(max_filter_rms=0.01, norm="batch", optimizer=lambda p: torch.optim.SGD(p, lr=0.1), **SMALL)
    images = TensorDataset(random_images(4, 3, 64, 64), torch.arange(4))
    trainer = pl.Trainer(
        logger=False, enable_checkpointing=False, accelerator="cpu", max_epochs=1, callbacks=[Look()],
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(network, DataLoader(images, batch_size=2))
    assert len(seen) == 2 * len(convolutions(network))
    assert max(seen) == pytest.approx(0.01**2, rel=1e-5)


# Skips and switches


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_silent_convolutions_pass_what_they_see(norm: Any) -> None:
    images = random_images(2, 3, 64, 64)
    for skip in (True, False):
        network = ZFNet(norm=norm, skip=skip, **SMALL).eval()
        for layer in convolutions(network)[2:4]:
            nn.init.zeros_(layer.weight)
        first, last = (nn.Sequential(*part) for part in split_at_third_and_fifth(network))
        seen = F.pad(first(images) * skip, (0, 0, 0, 0, 0, 6))  # maps 6, 8, 12
        torch.testing.assert_close(network.maps(images), last(seen))
        assert len(network.skips) == 2 * skip


def split_at_third_and_fifth(network: ZFNet) -> tuple[list[nn.Module], list[nn.Module]]:
    """Layers before convolution 3, and from convolution 5 on."""
    places = [index for index, layer in enumerate(network.features) if isinstance(layer, nn.Conv2d)]
    layers = list(network.features)
    return layers[: places[2]], layers[places[4] :]


@pytest.mark.parametrize("norm", ["lrn", "batch", "none"])
@pytest.mark.parametrize("skip", [False, True])
def test_every_combination_of_switches_trains(norm: Any, skip: bool) -> None:
    torch.manual_seed(0)
    network = ZFNet(norm=norm, skip=skip, in_channels=1, **SMALL)
    logits = network(random_images(4, 1, 96, 80))
    assert logits.shape == (4, 7)
    network.loss(logits, torch.arange(4)).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_dropout_acts_in_training_only() -> None:
    network, images = ZFNet(**SMALL), random_images(1, 3, 64, 64)
    for layer in network.classifier:
        if isinstance(layer, nn.Linear):
            nn.init.ones_(layer.bias)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


# Positions and refusals


def test_logit_maps_are_the_classifier_at_every_position() -> None:
    torch.manual_seed(0)
    network = ZFNet(**SMALL).eval()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(layer.weight)
    with torch.inference_mode():
        native, large = random_images(2, 3, 224, 224), random_images(2, 3, 256, 288)
        torch.testing.assert_close(network.logit_maps(native)[:, :, 0, 0], network(native))
        found, maps = network.logit_maps(large), network.maps(large)
        assert maps.shape[2:] == (7, 8)
        windows = F.unfold(maps, 6).transpose(1, 2)
        torch.testing.assert_close(found, network.classifier(windows).transpose(1, 2).unflatten(2, (2, 3)))


def test_too_small_images_are_refused_and_no_others() -> None:
    network = ZFNet(**SMALL)
    assert network(torch.zeros(1, 3, 47, 47)).shape == (1, 7)
    with pytest.raises(RuntimeError, match="Output size is too small"):
        network.features(torch.zeros(1, 3, 46, 47))
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
        network(torch.zeros(1, 3, 46, 47))
    assert str(refusal.value) == (
        "ZFNet needs at least 47 x 47 pixels, got 46 x 47: set data.init_args.image_size to 224, as in the paper."
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_filter_rms": -0.1}, "max_filter_rms (=-0.1) must not be negative: 0.1 in the paper, 0 is no limit."),
        ({"norm": "layer"}, "norm (=layer) must be one of lrn, batch, none."),
        ({"widths": [96]}, "widths (=[96]) must be five numbers of maps, 1 or more each: 96, 256, 384, 384, 256."),
    ],
)
def test_what_zfnet_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
        ZFNet(**settings)
    assert str(refusal.value) == message
