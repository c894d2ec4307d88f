"""Tangent kernels: closed forms against draws, torch.func against backward passes and hand formulas; the studies."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from benchmarks.cli import main
from benchmarks.phenomena import ntk, ntk_width, tangent_kernel
from benchmarks.phenomena.analysis import AnalysisError, Outcome
from benchmarks.phenomena.arc_cosine import kappa0, kappa1, kernels
from benchmarks.phenomena.cards import RESULTS
from benchmarks.phenomena.finished import FinishedRun, load_checkpoint, load_run
from benchmarks.phenomena.initial_weights import initial_network, with_statistics
from benchmarks.phenomena.ntk_width import TwoLayers
from benchmarks.phenomena.options import place
from models.lenet import LeNet5, ScaledTanh
from models.mlp import MLP
from models.resnet import ResNet

Bench = Callable[..., tuple[int, str, str]]


# -- the closed form --------------------------------------------------------------------------------------------------


def test_kernels_by_hand() -> None:
    """Equal, orthogonal and opposite unit vectors, scale 1: NNGP 1/2, 1/(2 pi), 0; NTK 1, 1/(2 pi), 0."""
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    covariance, tangent = kernels(x, x, scale=1.0)
    assert covariance[0].tolist() == pytest.approx([0.5, 1 / (2 * math.pi), 0], abs=1e-12)
    assert tangent[0].tolist() == pytest.approx([1.0, 1 / (2 * math.pi), 0], abs=1e-12)
    assert [float(kappa0(torch.tensor(u))) for u in (-1.0, 0.0, 1.0)] == pytest.approx([0, 0.5, 1], abs=1e-6)
    assert [float(kappa1(torch.tensor(u))) for u in (-1.0, 0.0, 1.0)] == pytest.approx([0, 1 / math.pi, 1], abs=1e-6)


def test_arc_cosine_is_the_expectation() -> None:
    generator = torch.Generator().manual_seed(0)
    a, other = torch.randn(2, 2_000_000, generator=generator)
    for u in (-0.5, 0.3, 0.9):
        b = u * a + math.sqrt(1 - u * u) * other
        assert float((a.relu() * b.relu()).mean()) == pytest.approx(float(kappa1(torch.tensor(u))) / 2, abs=2e-3)
        assert float(((a > 0) & (b > 0)).float().mean()) == pytest.approx(float(kappa0(torch.tensor(u))) / 2, abs=2e-3)


def test_outputs_at_the_start_are_a_gaussian_process_of_that_covariance() -> None:
    """4000 networks: the covariance is that of any width, Gaussian only of great width: excess kurtosis falls."""
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    wanted = kernels(x.double(), x.double())[0]
    kurtosis = {}
    for width in (4, 64):
        outputs = TwoLayers.drawn(4000, 8, width, torch.Generator().manual_seed(1))(x).double()
        found = outputs.T @ outputs / len(outputs)
        assert float((found - wanted).norm() / wanted.norm()) < 0.06
        kurtosis[width] = float((outputs**4).mean(0).div((outputs**2).mean(0) ** 2).mean() - 3)
    assert kurtosis[4] > 1
    assert abs(kurtosis[64]) < 0.4


class Deep(nn.Module):
    """Three hidden layers in the NTK parametrisation."""

    def __init__(self, d: int, width: int) -> None:
        super().__init__()
        sizes = [d, width, width, width, 1]
        self.weights = nn.ParameterList(torch.randn(a, b) for a, b in itertools.pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        for layer, weight in enumerate(self.weights):
            x = (x.relu() * math.sqrt(2) if layer else x) @ weight / math.sqrt(len(weight))
        return x


def test_recursion_is_that_of_deep_networks() -> None:
    """Five networks of 256 units and three hidden layers, by torch.func: within 8 % of the limit."""
    torch.manual_seed(0)
    x = torch.randn(6, 10)
    mean = torch.stack([tangent_kernel.tangent_kernel(Deep(10, 256), x) for _ in range(5)]).mean(0)
    wanted = kernels(x.double(), x.double(), hidden=3, gain=math.sqrt(2))[1]
    assert float((mean - wanted).norm() / wanted.norm()) < 0.08
    one = kernels(x.double(), x.double(), hidden=1, gain=math.sqrt(2))[1]
    assert float((mean - one).norm() / wanted.norm()) > 0.3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": 0}, "hidden (=0) must be at least 1: the kernel of a linear model is its inner product."),
        ({"x": torch.zeros(1, 3)}, "a point (=0) must have a direction for its angle to others: leave points"),
    ],
)
def test_kernels_that_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(AnalysisError) as error:
        kernels(**{"x": torch.ones(1, 3), "other": torch.ones(1, 3)} | change)  # type: ignore[arg-type]
    assert message in str(error.value)


# -- the empirical kernel of any network ------------------------------------------------------------------------------


def mixed() -> nn.Module:
    """Layers that vmap could stumble on."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, groups=3), nn.ReLU(inplace=True), nn.LocalResponseNorm(3), nn.GroupNorm(2, 6),
        nn.MaxPool2d(2), nn.Flatten(), nn.LazyLinear(9), nn.LayerNorm(9), ScaledTanh(), nn.Dropout(), nn.Linear(9, 4),
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "mlp": (lambda: MLP((1, 8, 8), [16, 16], activation="sigmoid", norm="batch", dropout=0.5), (1, 8, 8)),
    "lenet": (lambda: LeNet5(c3="table", subsampling="trainable", activation="scaled_tanh"), (1, 32, 32)),
    "resnet": (lambda: ResNet([1, 1], [4, 8], stem="cifar", shortcut="A", num_classes=10), (3, 12, 12)),
    "mixed": (mixed, (3, 12, 12)),
}


def by_backward(network: nn.Module, images: Tensor, outputs: str) -> Tensor:
    """The kernel in double precision, one backward pass for each image and logit."""
    network = copy.deepcopy(network).double().eval()
    rows = []
    for image in images.double():
        logits = network(image[None])[0]
        heads = list(logits) if outputs == "each" else [logits.sum() / math.sqrt(len(logits))]
        weights = [p for p in network.parameters() if p.requires_grad]
        slopes = [torch.autograd.grad(head, weights, retain_graph=True) for head in heads]
        rows.append(torch.stack([torch.cat([part.flatten() for part in one]) for one in slopes]))
    return torch.stack([torch.stack([(a * b).sum(1).mean() for b in rows]) for a in rows])


@pytest.mark.parametrize("name", NETWORKS)
def test_kernel_of_any_network_which_comes_back_as_it_was(name: str) -> None:
    """In one block and in several of two images; modes, gradients, hooks, weights, buffers, random numbers are kept."""
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    network, images = make(), torch.randn(5, *shape)
    network(images)  # batch norms have statistics, lazy layers their shape
    network.train()
    first, second = itertools.islice(network.parameters(), 2)
    first.grad = torch.ones_like(first)
    second.requires_grad_(False)
    calls: list[int] = []
    network.register_forward_hook(lambda *_: calls.append(1))
    before, hooks, numbers = copy.deepcopy(network.state_dict()), dict(network._forward_hooks), torch.get_rng_state()

    for outputs in ("each", "sum"):
        wanted = by_backward(network, images, outputs)
        rows = 4 if name == "mixed" and outputs == "each" else 10 if outputs == "each" else 1
        weights = sum(p.numel() for p in network.parameters() if p.requires_grad)
        for memory in (1.0, 2 * 2 * 4e-9 * rows * weights * 1.01):
            found = tangent_kernel.tangent_kernel(network, images, outputs, memory)
            assert float((found - wanted).norm() / wanted.norm()) < 2e-5
            assert torch.equal(found, found.T)
        assert tangent_kernel.plan(network, images, outputs, memory).blocks == 3
    now = {key: value * 1.01 for key, value in tangent_kernel.weights_of(network).items()}
    tangent_kernel.linearised(network, now, images)

    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert first.grad is not None
    assert torch.equal(first.grad, torch.ones_like(first))
    assert (first.requires_grad, second.requires_grad) == (True, False)
    assert all(p.grad is None for p in list(network.parameters())[1:])
    assert dict(network._forward_hooks) == hooks
    assert torch.equal(torch.get_rng_state(), numbers)


def test_passes_by_hand() -> None:
    """Seven images, three at a time: blocks 3, 3, 1; gradients of 3 + (3 + 3) ... = 3, 3 twice, 1 three times."""
    made = tangent_kernel.Plan(images=7, logits=2, weights=5, block=3, seconds=1.4, device="cpu")
    assert (made.blocks, made.passes) == (3, 3 + 2 * 3 + 3 * 1)
    assert str(made) == (
        "kernel of 7 images, 2 x 5 gradients each: 3 blocks, 12 gradients of images, 2.4e-07 GB, about 1 s on cpu"
    )
    network, images = MLP((1, 4, 4), [6]), torch.randn(9, 1, 4, 4)
    made = tangent_kernel.plan(network, images)
    assert (made.images, made.logits, made.weights, made.blocks, made.passes) == (9, 10, 17 * 6 + 7 * 10, 1, 9)
    assert made.seconds > 0


def test_kernels_of_networks_that_are_refused() -> None:
    network = MLP((1, 4, 4), [6])
    for arguments, message in (
        ((network, torch.randn(3, 1, 4, 4), "each", 1e-6), "memory_gb (=1e-06) must hold the gradients of two images, "
         "10 x 172 numbers each: allow 1.4e-05 or more, or take outputs: sum."),
        ((network, torch.randn(3, 1, 4, 4), "sum", 1e-7), "allow 1.4e-06 or more."),
        ((network, torch.randn(0, 1, 4, 4)), "images (=0) must be at least 1 for a kernel: give some."),
        ((nn.Flatten(), torch.randn(3, 1, 4, 4)), "Flatten must have weights that are trained, for a tangent kernel"),
    ):  # fmt: skip
        with pytest.raises(AnalysisError) as error:
            tangent_kernel.tangent_kernel(*arguments)  # type: ignore[arg-type]
        assert message in str(error.value)
    other = tangent_kernel.weights_of(MLP((1, 4, 4), [7]))
    with pytest.raises(
        AnalysisError, match=r"weights \(=fc.weight, hidden.0.bias, hidden.0.weight; 3 in all\) must be"
    ):
        tangent_kernel.linearised(network, other, torch.randn(3, 1, 4, 4))


def test_drift_and_turn() -> None:
    one, two = torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[0.0, 4.0], [-3.0, 0.0]])
    assert tangent_kernel.drift(one, 2 * one) == 1
    assert tangent_kernel.turn(one, 2 * one) == pytest.approx(0, abs=1e-6)
    assert tangent_kernel.turn(one, two) == 1
    assert tangent_kernel.drift(one, two) == pytest.approx(math.sqrt(2))


def test_regression_by_hand_and_against_features() -> None:
    """K = 2, across 1, y = 3: 3/2. With features it is the shortest least-squares fit."""
    assert float(tangent_kernel.regression(*(torch.tensor([[v]]).double() for v in (2, 1, 3)), ridge=0)) == 1.5
    z, fresh, y = (torch.randn(*shape, dtype=torch.float64) for shape in ((4, 9), (3, 9), (4, 2)))
    found = tangent_kernel.regression(z @ z.T, fresh @ z.T, y, ridge=0)
    torch.testing.assert_close(found, fresh @ torch.linalg.pinv(z) @ y)


def test_linearised_network() -> None:
    """Exact for one that is linear; else the distance is of second order: a quarter for half the change."""
    torch.manual_seed(0)
    images = torch.randn(4, 1, 4, 4, dtype=torch.float64)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
    now = {key: value + torch.randn_like(value) for key, value in tangent_kernel.weights_of(linear).items()}
    wanted = torch.func.functional_call(linear, now, (images,))
    torch.testing.assert_close(tangent_kernel.linearised(linear, now, images), wanted)
    network = MLP((1, 4, 4), [8], activation="tanh").double()
    change = {key: torch.randn_like(value) for key, value in tangent_kernel.weights_of(network).items()}

    def off(size: float) -> float:
        now = {key: value + size * change[key] for key, value in tangent_kernel.weights_of(network).items()}
        wanted = torch.func.functional_call(network, now, (images,))
        return float((tangent_kernel.linearised(network, now, images) - wanted).norm())

    assert off(1e-3) / off(5e-4) == pytest.approx(4, rel=0.02)


# -- width ------------------------------------------------------------------------------------------------------------


class Alone(nn.Module):
    """One network of TwoLayers as a module."""

    def __init__(self, both: TwoLayers, index: int) -> None:
        super().__init__()
        self.w, self.a = nn.Parameter(both.w[index].clone()), nn.Parameter(both.a[index].clone())

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.w / math.sqrt(x.shape[1])).relu() @ self.a / math.sqrt(len(self.a))


def test_batched_networks_are_separate_networks() -> None:
    """Outputs, kernel by torch.func, and three steps against SGD."""
    generator = torch.Generator().manual_seed(0)
    both = TwoLayers.drawn(2, 5, 7, generator)
    x, y = torch.randn(6, 5, generator=generator), torch.randn(6, generator=generator)
    outputs, kernel = both(x), both.kernel(x, x)
    start = TwoLayers(both.w, both.a)
    modules = [Alone(both, index) for index in range(2)]
    for _ in range(3):
        both.step(x, y, 0.1)
    for index, module in enumerate(modules):
        torch.testing.assert_close(module(x)[:, 0].detach(), outputs[index])
        torch.testing.assert_close(tangent_kernel.tangent_kernel(module, x).float(), kernel[index])
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        first = torch.nn.utils.parameters_to_vector(module.parameters()).detach().clone()
        for _ in range(3):
            optimizer.zero_grad()
            ((module(x)[:, 0] - y).square().sum() / 2).backward()
            optimizer.step()
        torch.testing.assert_close(both.w[index], module.w.detach())
        torch.testing.assert_close(both.a[index], module.a.detach())
        last = torch.nn.utils.parameters_to_vector(module.parameters()).detach()
        assert float(both.change(start)[index]) == pytest.approx(float((last - first).norm() / first.norm()), rel=1e-5)


def test_linear_dynamics_are_steps_of_a_linear_model() -> None:
    """Features z, weights v from v_0, ten steps on |z v - y|^2 / 2; fewer features than points, so K is singular."""
    z, fresh, y, v = (torch.randn(*shape, dtype=torch.float64) for shape in ((6, 4), (3, 4), (6,), (4,)))
    rate = 0.5 / float(torch.linalg.eigvalsh(z @ z.T)[-1])
    start, start_fresh = z @ v, fresh @ v
    for _ in range(10):
        v = v - rate * z.T @ (z @ v - y)
    found = ntk_width.linear_dynamics(z @ z.T, fresh @ z.T, start, start_fresh, y, rate, 10)
    torch.testing.assert_close(found, fresh @ v)


def held(outcome: Outcome) -> dict[str, float]:
    assert outcome.checks
    assert [f"{check.name} = {check.value}" for check in outcome.failed] == []
    assert outcome.figures
    return {check.name: check.value for check in outcome.checks}


def test_slopes_hold_at_smoke_size() -> None:
    found = held(ntk.analyze(preset="smoke"))
    for name, low, high in (
        ("K - Theta", -0.6, -0.4), ("change of weights", -0.6, -0.4), ("kernel drift", -1.1, -0.7),
        ("f - linearised", -0.65, -0.4),
    ):  # fmt: skip
        assert low <= found[f"{name}: log-log slope over width"] <= high


def test_slope_of_a_power() -> None:
    widths = (10, 20, 40)
    values = np.array([[w**-0.5, 3 * w**-1.0] for w in widths])
    assert ntk_width.slopes(widths, values) == pytest.approx([-0.5, -1])


# -- a finished run ---------------------------------------------------------------------------------------------------


QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--trainer.max_epochs", "1")


def fitted(tmp_path: Path, name: str, *options: str) -> Path:
    assert main(["fit", "--config", f"digits/{name}", "--seed_everything", "3", *QUIET, *options]) == 0
    (folder,) = (tmp_path / f"runs/digits/{name}").glob("*/seed-3")
    return folder


@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_initial_weights_are_those_of_the_run(tmp_path: Path, name: str) -> None:
    """A run whose rate is 0 ends with the weights it began with; bit for bit, and no random number is lost."""
    run = load_run(str(fitted(tmp_path, name, "--model.init_args.optimizer.init_args.lr", "0.0")))
    state = torch.get_rng_state()
    initial = initial_network(run)
    assert torch.equal(torch.get_rng_state(), state)
    trained = dict(run.network.named_parameters())
    assert trained
    assert all(torch.equal(p, trained[key]) for key, p in initial.named_parameters())
    assert not initial.training


def test_initial_weights_that_nobody_knows(tmp_path: Path) -> None:
    folder = fitted(tmp_path, "mlp")
    elsewhere = tmp_path / "some.ckpt"
    elsewhere.write_bytes((folder / "checkpoints/last.ckpt").read_bytes())
    with pytest.raises(
        AnalysisError, match=r"some.ckpt must lie in the folder seed-N of a run, of whose seed its initial"
    ):
        initial_network(load_checkpoint(str(elsewhere), "digits/mlp"))
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["model"]["init_args"]["weights"] = "start.pt"
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(
        AnalysisError, match=r"weights \(=start.pt\), its network began with a file and not with its seed"
    ):
        initial_network(load_run(str(folder)))


def test_batch_norms_of_the_start_get_statistics() -> None:
    torch.manual_seed(0)
    network, images = MLP((1, 4, 4), [5], norm="batch").eval(), torch.randn(50, 1, 4, 4)
    before = copy.deepcopy(network.state_dict())
    other = with_statistics(network, [images[:25], images[25:]])
    norm = other.hidden[1]  # type: ignore[index,union-attr]
    z = network.hidden[0](images.flatten(1))
    torch.testing.assert_close(norm.running_mean, z.mean(0))
    torch.testing.assert_close(norm.running_var, (z[:25].var(0) + z[25:].var(0)) / 2)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not other.training
    dropped = MLP((1, 4, 4), [5, 5], norm="batch", dropout=0.5)
    twice = [with_statistics(dropped, [images])(images) for _ in range(2)]
    assert torch.equal(*twice)  # dropout is off where statistics are taken
    with pytest.raises(AnalysisError, match=r"a batch \(=1 image\) must hold 2 or more where there are batch norms"):
        with_statistics(network, [images[:1]])
    plain = MLP((1, 4, 4), [5])
    assert with_statistics(plain, [images]) is plain


def test_a_run_which_comes_back_as_it_was(bench: Bench, tmp_path: Path) -> None:
    folder = fitted(tmp_path, "mlp")
    status, out, err = bench("analyze", "ntk", "--study", "run", "--run", folder, "--smoke")
    assert status == 0, out + err
    assert "two kernels, each: kernel of 80 images, 10 x " in err
    record = json.loads((folder / "phenomena/ntk-run/smoke/seed-0/ntk-run.json").read_text())
    assert all(check["held"] for check in record["checks"] if check["must_hold"])
    assert record["numbers"]["relative drift of the kernel"] > 0
    assert set(record["numbers"]["accuracy, %"]) == {"network", "linearised", "initial", "trained"}

    run: FinishedRun = load_run(str(folder))
    before, numbers = copy.deepcopy(run.network.state_dict()), torch.get_rng_state()
    run.network.train()
    ntk.analyze(study="run", run=run, preset="smoke", outputs="sum", images=20, test=20, device="cpu")
    assert run.network.training
    assert torch.equal(torch.get_rng_state(), numbers)
    assert all(torch.equal(value, before[key]) for key, value in run.network.state_dict().items())
    assert all(p.grad is None for p in run.network.parameters())


def test_numbers_of_a_run_against_a_kernel_by_hand(tmp_path: Path) -> None:
    """Accuracy and drift once more, from gradients by backward passes."""
    run = load_run(str(fitted(tmp_path, "mlp")))
    outcome = ntk.analyze(study="run", run=run, preset="smoke", images=20, test=12, seed=5)
    (train, labels), (test, test_labels) = run.images("train", 20, 5), run.images("test", 12, 5)
    images = torch.cat([train, test])
    before, after = (by_backward(one, images, "each") for one in (initial_network(run), run.network))
    order = labels.argsort(stable=True)
    assert outcome.numbers["relative drift of the kernel"] == pytest.approx(
        tangent_kernel.drift(before, after), rel=1e-3
    )
    y = F.one_hot(labels, 10).double() - 0.1
    for name, kernel in (("initial", before), ("trained", after)):
        guess = tangent_kernel.regression(kernel[:20, :20], kernel[20:, :20], y).argmax(1)
        wanted = 100 * float((guess == test_labels).double().mean())
        assert outcome.numbers["accuracy, %"][name] == pytest.approx(wanted)
        values = torch.linalg.eigvalsh(kernel[order][:, order][:20, :20] if len(kernel) == 20 else kernel[:20, :20])
        found = outcome.table[f"eigenvalue, {name}"]
        np.testing.assert_allclose(found, values.flip(0).numpy(), rtol=1e-3, atol=1e-6 * float(values[-1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"study": "run"}, "--study (=run) needs a trained network: --run with the folder seed-N of a finished run."),
        ({"outputs": "sum"}, "--outputs (=sum) is for run, not width: leave it out."),
        ({"memory_gb": 2.0}, "--memory_gb (=2.0) is for run, not width: leave it out."),
        ({"images": 3}, "--images (=3) must be at least 10: leave it out for the preset's."),
        ({"networks": 1}, "--networks (=1) must be at least 2: leave it out for the preset's."),
        ({"steps": 0}, "--steps (=0) must be at least 1: leave it out for the preset's."),
    ],
)
def test_options_that_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(AnalysisError) as error:
        ntk.analyze(**options, preset="smoke")  # type: ignore[arg-type]
    assert message in str(error.value)


def test_options_of_a_run_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = load_run(str(fitted(tmp_path, "mlp")))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for options, message in (
        ({}, "is for --study run, width trains networks of its own: add --study run."),
        ({"study": "run", "steps": 5}, "--steps (=5) is for width, not run: leave it out."),
        ({"study": "run", "test": 3}, "--test (=3) must be at least 10: leave it out for the preset's."),
        ({"study": "run", "memory_gb": -1.0}, "--memory_gb (=-1) must be above 0, it is a bound: use 1."),
        ({"study": "run", "device": "cuda"}, "--device (=cuda) must be there, torch sees no GPU: use --device cpu"),
        ({"study": "run", "memory_gb": 1e-7}, "memory_gb (=1e-07) must hold the gradients of two images"),
    ):
        with pytest.raises(AnalysisError) as error:
            ntk.analyze(run=run, preset="smoke", **options)  # type: ignore[arg-type]
        assert message in str(error.value)
    assert place("auto") == torch.device("cpu")


# -- committed --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("study", ["width", "run"])
def test_committed_results_are_of_the_full_check_and_hold(study: str) -> None:
    record = json.loads((RESULTS / f"ntk-{study}.json").read_text())
    assert (record["preset"], record["seed"], record["commit"]["clean"]) == ("cpu", 0, True)
    assert record["checks"]
    assert all(check["held"] for check in record["checks"] if check["must_hold"])
    assert (record["run"] is not None) == (study == "run")
