"""CIFAR ResNets and plain nets in bare PyTorch: He et al. 2015, section 4.2, a second time, to compare with.

    python benchmarks/peers/cifar_resnet.py --data FOLDER --epochs 6 --seed 0 --out curve.csv

Shares no line with the suite: it reads CIFAR's own files, draws crops and flips from torch's generator, builds the
network and steps the optimizer itself. Same recipe, other random numbers: curves agree as far as seeds do.
"""

from __future__ import annotations

import argparse
import csv
import lzma
import pickle
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def read(folder: Path, names: list[str]) -> tuple[Tensor, Tensor]:
    """Images [N, 3, 32, 32] as floats 0 to 255 and labels [N] of the named batch files, plain or .xz."""
    images, labels = [], []
    for name in names:
        path = folder / name
        content = path.read_bytes() if path.exists() else lzma.decompress(path.with_suffix(".xz").read_bytes())
        batch = pickle.loads(content, encoding="bytes")
        images.append(np.asarray(batch[b"data"]).reshape(-1, 3, 32, 32))
        labels += batch[b"labels"]
    return torch.from_numpy(np.concatenate(images)).float(), torch.tensor(labels)


class Pair(nn.Module):
    """Two 3x3 convolutions with norms; `skip` adds the input, sub-sampled and padded with zero channels."""

    def __init__(self, fan_in: int, fan_out: int, stride: int, skip: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(fan_in, fan_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(fan_out),
            nn.ReLU(),
            nn.Conv2d(fan_out, fan_out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(fan_out),
        )
        self.stride, self.new, self.skip = stride, fan_out - fan_in, skip

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        if self.skip:
            short = x[..., :: self.stride, :: self.stride]
            zeros = short.new_zeros(short.shape[0], self.new, *short.shape[2:])
            y = y + torch.cat([short, zeros], 1)
        return y.relu()


def network(n: int, skip: bool) -> nn.Sequential:
    """6n + 2 layers: a 3x3 convolution, three stages of n pairs at 16, 32, 64 channels, mean, linear."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    for fan_in, fan_out in ((16, 16), (16, 32), (32, 64)):
        for index in range(n):
            first = index == 0
            layers.append(Pair(fan_in if first else fan_out, fan_out, 2 if first and fan_in != fan_out else 1, skip))
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


def cropped(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image shifted by -4 to 4 pixels (zeros outside) and mirrored half the time."""
    count = len(images)
    wide = F.pad(images, (4, 4, 4, 4))
    windows = wide.unfold(2, 32, 1).unfold(3, 32, 1)  # [B, 3, 9, 9, 32, 32], a view
    top, left = (torch.randint(0, 9, (count,), generator=generator) for _ in range(2))
    cut = windows[torch.arange(count), :, top, left]
    mirror = torch.rand(count, generator=generator) < 0.5
    cut[mirror] = cut[mirror].flip(-1)
    return cut


def main() -> None:
    """Train and write one row an epoch: running training loss and error, test error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds data_batch_1 ... test_batch")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--layers", type=int, default=20, help="6n + 2")
    parser.add_argument("--plain", action="store_true", help="without shortcuts")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="CSV file to write")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    train_images, train_labels = read(options.data, [f"data_batch_{i}" for i in range(1, 6)])
    test_images, test_labels = read(options.data, ["test_batch"])
    mean = train_images.mean(0)
    deviation = train_images.std((0, 2, 3))[:, None, None]

    net = network((options.layers - 2) // 6, not options.plain).to(memory_format=torch.channels_last)
    print(f"{sum(p.numel() for p in net.parameters())} parameters, torch {torch.__version__}", file=sys.stderr)
    optimizer = torch.optim.SGD(net.parameters(), lr=options.lr, momentum=0.9, weight_decay=1e-4)
    rows = []
    for epoch in range(options.epochs):
        started, wrong, loss_sum, seen = time.perf_counter(), 0, 0.0, 0
        net.train()
        order = torch.randperm(len(train_labels), generator=generator)
        for start in range(0, len(order) - 127, 128):
            picked = order[start : start + 128]
            images = (cropped(train_images[picked], generator) - mean) / deviation
            logits = net(images.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits, train_labels[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            wrong += int((logits.argmax(1) != train_labels[picked]).sum())
            loss_sum += 128 * loss.item()
            seen += 128
        net.eval()
        with torch.no_grad():
            batches = zip(test_images.split(500), test_labels.split(500), strict=True)
            test_wrong = sum(int((net((x - mean) / deviation).argmax(1) != y).sum()) for x, y in batches)
        row = {
            "epoch": epoch,
            "train/loss": round(loss_sum / seen, 6),
            "train/top1_error": round(100 * wrong / seen, 4),
            "val/top1_error": round(100 * test_wrong / len(test_labels), 4),
            "seconds": round(time.perf_counter() - started, 1),
        }
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    with open(options.out, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
