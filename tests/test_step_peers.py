"""The peers' steps are the same mathematics, and the table's ratios are those of each round."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path

import pytest
import torch

from benchmarks.peers.mnist_example import network
from benchmarks.step_peers import BEGIN, COMMITTED, END, PEERS, WARM_UP, as_markdown, committed, serve

Bench = Callable[..., tuple[int, str, str]]
README = Path(__file__).parent.parent / "README.md"


def test_every_peer_takes_the_same_steps() -> None:
    torch.manual_seed(0)
    images, labels = torch.randn(6, 4), torch.randint(0, 7, (6,))
    first = torch.nn.Linear(4, 7)
    found = []
    for step in PEERS.values():
        net = copy.deepcopy(first)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        for number in range(3):
            step(net, optimizer, images, labels, number)
        found.append(net.weight)
    assert len(found) == 3
    assert not torch.equal(found[0], first.weight)
    assert all(torch.equal(weight, found[0]) for weight in found)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_peers_compute_in_the_precision_that_is_asked_for(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits come in 32 bits for the loss; under autocast they are numbers that bfloat16 has."""
    logits = []

    def step(network: Callable[..., torch.Tensor], optimizer: object, images: torch.Tensor, *_: object) -> None:
        assert optimizer is not None
        logits.append(network(images))

    monkeypatch.setitem(PEERS, "bare", step)
    ours, theirs = Pipe()
    for message in ("device", "turn", ""):
        ours.send(message)
    serve("bare", "digits/linear", ["--trainer.precision", precision, "--trainer.accelerator", "cpu"], 2, theirs)
    assert ours.recv() == "cpu"
    assert ours.recv() > 0
    assert len(logits) == WARM_UP + 2
    assert {one.dtype for one in logits} == {torch.float32}
    in_sixteen = [torch.equal(one, one.bfloat16().float()) for one in logits]
    assert set(in_sixteen) == {precision == "bf16-mixed"}


def test_ratios_are_medians_over_rounds() -> None:
    rounds = [
        {"ours": 1.0, "bare": 2.0, "torchvision": 3.0, "timm": 1.0},
        {"ours": 2.0, "bare": 2.0, "torchvision": 8.0, "timm": 1.0},
        {"ours": 1.0, "bare": 1.5, "torchvision": 3.0, "timm": 1.0},
    ]
    hardware = {"name": "a processor", "cores": 2, "threads": 1, "load_before": 0.0}
    record = {"recipe": "a/b", "settings": [], "steps": 10, "rounds": rounds, "hardware": hardware}
    record["clock"] = "processor seconds of each process"
    text = as_markdown([record])
    lines = {line.split("|")[1].strip(): line.split("|")[2:5] for line in text.splitlines() if line.startswith("| ")}
    assert [cell.strip() for cell in lines["bare PyTorch loop"]] == ["200.0", "1.50", "1.00 to 2.00"]
    assert [cell.strip() for cell in lines["torchvision's references"]] == ["300.0", "3.00", "3.00 to 4.00"]
    assert [cell.strip() for cell in lines["timm"]] == ["100.0", "1.00", "0.50 to 1.00"]
    assert as_markdown([]) == "Not measured yet."
    assert "in alternation, 1 of 2 cores of a processor, load 0.0 before" in text
    assert "ms: processor time of a step" in text
    on_gpu = record | {"clock": "wall seconds", "hardware": {**hardware, "name": "a GPU"}}
    assert "in alternation, a GPU, load 0.0 before" in as_markdown([on_gpu])
    assert "ms: wall time of a step" in as_markdown([on_gpu])
    assert "ms: processor time or, on a GPU, wall time of a step" in as_markdown([on_gpu, record])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mnist/lenet",), "error: recipe (=mnist/lenet) is neither a file nor a recipe of the suite: did you mean"),
        (("imagenet/alexnet_5",), "error: imagenet/alexnet_5 is an ensemble"),
        (("digits/linear", "--data.batch", "5"), "Option 'batch' is not accepted"),
        (
            ("--data.batch_size", "16", "digits/linear"),
            "error: 16 after --data.batch_size is no recipe but a setting's",
        ),
    ],
)
def test_what_is_refused_starts_no_side(
    bench: Bench, arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.step_peers.Side", None)
    status, text, error = bench("peers", *arguments)
    assert (status, text) == (2, "")
    assert message in error


def test_the_record_takes_its_clock_from_the_sides_and_no_folders(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Made:
        """A side that needs a second on a device of its own."""

        def __init__(self, *_: object) -> None:
            self.device = "cpu"

        def __enter__(self) -> Made:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def seconds(self) -> float:
            return 1.0

        def answer(self, message: str) -> str:
            assert message == "device"
            return self.device

    monkeypatch.setattr("benchmarks.step_peers.Side", Made)
    out = tmp_path / "out.json"
    status, _, error = bench("peers", "digits/linear", "--json", out, "--data.root", tmp_path)
    assert status == 0, error
    record = json.loads(out.read_text())
    assert (record["recipe"], record["clock"]) == ("digits/linear", "processor seconds of each process")
    assert record["hardware"]["device"] == "cpu"
    assert str(tmp_path) not in out.read_text()
    assert record["command"].startswith("python -m benchmarks peers digits/linear --json out.json --data.root ")


def test_the_readme_shows_what_is_committed() -> None:
    records = committed()
    assert records
    assert as_markdown(records) in README.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    for path in COMMITTED.glob("steps-*.json"):
        assert {"hardware", "versions", "commit", "command", "finished"} <= set(json.loads(path.read_text()))


def test_the_example_of_mnist_has_its_weights() -> None:
    assert sum(parameter.numel() for parameter in network().parameters()) == 1_199_882
    assert network().eval()(torch.zeros(1, 1, 28, 28)).exp().sum().item() == pytest.approx(1)
