"""MNIST as the PyTorch examples' script trains it, written anew from its published settings, to time beside ours.

    python -m benchmarks.peers.mnist_example --data FOLDER --seeds 5 --json race.json

Convolutions of 32 and 64 maps of 3x3, max pooling, dropout 0.25 and 0.5, 128 units, log-softmax; Adadelta with rate 1,
times 0.7 after each epoch; batches of 64, 1 000 in the test; 14 epochs; a DataLoader over torchvision's MNIST with
`ToTensor` and `Normalize`, in the main process as on a CPU there. Every tenth loss is printed there; it is read here.
The clock, of processor seconds and of the wall, starts before the first batch and runs through the tests, as a user
waits for them. Stops a seed where the accuracy is reached, and writes what `time-to-accuracy` writes of ours; network,
data and training share no line with the suite.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.time_to_accuracy import described, record_of, summary
from datamodules.files import write_whole


def network() -> nn.Sequential:
    """1 199 882 weights. [B, 1, 28, 28] -> log-probabilities [B, 10]"""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25),
        nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10), nn.LogSoftmax(1),
    )  # fmt: skip


def test_accuracy(net: nn.Module, batches: DataLoader[tuple[Tensor, Tensor]]) -> float:
    """Percent of the test images that are right."""
    net.eval()
    with torch.no_grad():
        right = sum(int((net(images).argmax(1) == labels).sum()) for images, labels in batches)
    return 100 * right / 10_000


def train(folder: Path, seed: int, epochs: int, until: float) -> list[dict[str, float]]:
    """Train until a test accuracy, in percent, is reached at the end of an epoch, or the epochs are over.

    Accuracy and time after each epoch.
    """
    from torchvision import datasets, transforms

    torch.manual_seed(seed)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    sets: list[Dataset[tuple[Tensor, Tensor]]] = [datasets.MNIST(folder, train, transform) for train in (True, False)]
    batches, tests = DataLoader(sets[0], batch_size=64, shuffle=True), DataLoader(sets[1], batch_size=1000)
    net = network()
    optimizer = torch.optim.Adadelta(net.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)
    wall, cpu = time.perf_counter(), time.process_time()
    found: list[dict[str, float]] = []
    for epoch in range(epochs):
        net.train()
        for step, (images, labels) in enumerate(batches):
            optimizer.zero_grad()
            loss = F.nll_loss(net(images), labels)
            loss.backward()
            optimizer.step()
            if step % 10 == 0:
                loss.item()
        accuracy = test_accuracy(net, tests)
        schedule.step()
        times = {"cpu_seconds": time.process_time() - cpu, "wall_seconds": time.perf_counter() - wall}
        found.append({"epoch": epoch + 1, "accuracy": accuracy} | times)
        print(f"seed {seed}, epoch {epoch + 1}: {accuracy:.2f} %", file=sys.stderr, flush=True)
        if accuracy >= until:
            break
    return found


def main() -> None:
    """Train each seed and say when the accuracy was reached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds MNIST/raw")
    parser.add_argument("--seeds", type=int, default=5, help="0, 1, ...: how many (default: 5)")
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--until", type=float, default=99.0, help="percent of the test images")
    parser.add_argument("--json", type=Path, help="write everything that was measured")
    options = parser.parse_args()
    load, runs = os.getloadavg()[0], []
    for seed in range(options.seeds):
        runs.append({"seed": seed, "epochs": train(options.data, seed, options.epochs, options.until)})
        print(described(runs[-1], options.until), flush=True)
    print(summary(runs, options.until))
    if options.json:
        record = record_of("PyTorch's examples, mnist", options.until, runs, load)
        command = f"python -m benchmarks.peers.mnist_example --data FOLDER --seeds {options.seeds}"
        write_whole(options.json, json.dumps(record | {"command": command}, indent=1) + "\n")


if __name__ == "__main__":
    main()
