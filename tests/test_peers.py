"""The suite against other implementations: the same networks, and training curves as close as seeds are."""

from __future__ import annotations

import csv
import itertools
import lzma
import pickle
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.peers import cifar_resnet
from benchmarks.results import COMMITTED, read_result
from models.resnet import ResNet

SCRIPT = Path(cifar_resnet.__file__)
CURVES = SCRIPT.parent / "results"


@pytest.mark.parametrize("skip", [True, False])
def test_the_bare_network_is_ours(skip: bool) -> None:
    """Weights in the order of their definition give the same logits, in both modes."""
    torch.manual_seed(0)
    ours = ResNet([3, 3, 3], [16, 32, 64], stem="cifar", shortcut="A", skip=skip, num_classes=10)
    theirs = cifar_resnet.network(3, skip)
    theirs.load_state_dict(
        dict(zip(theirs.state_dict(), (tensor.clone() for tensor in ours.state_dict().values()), strict=True))
    )
    images = torch.randn(8, 3, 32, 32)
    for training in (True, False):
        with torch.no_grad():
            found, expected = ours.train(training)(images), theirs.train(training)(images)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_crops_are_shifts_and_mirrors() -> None:
    image = torch.arange(1.0, 1 + 3 * 32 * 32).reshape(1, 3, 32, 32)
    wide = torch.nn.functional.pad(image, (4, 4, 4, 4))[0]
    shifts = {}
    for top, left in itertools.product(range(9), range(9)):
        window = wide[:, top : top + 32, left : left + 32]
        shifts |= {(top, left, False): window, (top, left, True): window.flip(-1)}
    cut = cifar_resnet.cropped(image.expand(200, -1, -1, -1), torch.Generator().manual_seed(0))
    seen = [next(key for key, shift in shifts.items() if torch.equal(shift, one)) for one in cut]
    assert len({key[0] for key in seen}) == len({key[1] for key in seen}) == 9
    assert 70 < sum(key[2] for key in seen) < 130


def test_the_script_trains_from_cifars_own_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        count = 500 if name == "test_batch" else 52
        pixels = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        batch = {b"data": pixels, b"labels": [number % 10 for number in range(count)]}
        (tmp_path / f"{name}.xz").write_bytes(lzma.compress(pickle.dumps(batch), preset=0))
    out = tmp_path / "curve.csv"
    options = ["--data", str(tmp_path), "--epochs", "1", "--layers", "8", "--out", str(out)]
    subprocess.run([sys.executable, str(SCRIPT), *options], check=True, capture_output=True, timeout=120)
    with open(out, newline="") as file:
        (row,) = csv.DictReader(file)
    assert 0 <= float(row["train/top1_error"]) <= 100
    assert 80 < float(row["val/top1_error"]) <= 100  # noise cannot be learnt: about 90


def curves(folder: Path, pattern: str) -> list[list[float]]:
    """Training errors in percent, epoch by epoch, of every committed run."""
    found = []
    for path in sorted(folder.glob(pattern)):
        with open(path, newline="") as file:
            found.append([float(row["train/top1_error"]) for row in csv.DictReader(file)])
    return found


def test_resnet_20_learns_as_fast_as_in_the_bare_loop() -> None:
    """Six epochs on CIFAR-10, measured: means over seeds differ by less than two seeds of the bare loop do."""
    ours = curves(COMMITTED / "cifar10" / "resnet20_short", "seed-*.csv")
    theirs = curves(CURVES, "cifar_resnet20-seed-*.csv")
    assert len(ours) >= 2
    assert len(theirs) >= 2
    first = [curve[0] for curve in theirs]
    noise = max(first) - min(first)
    assert 0 < noise < 5
    for epoch in range(6):
        mine = [curve[epoch] for curve in ours if len(curve) > epoch]
        others = [curve[epoch] for curve in theirs if len(curve) > epoch]
        assert abs(statistics.mean(mine) - statistics.mean(others)) < noise, epoch


def test_shortcuts_and_norms_both_help_in_six_epochs() -> None:
    """ResNet-20 before plain-20 before ResNet-20 without norms, in training and in test error, every seed of each."""
    names = ("resnet20_short", "plain20_short", "resnet20_short_without_norm")
    runs = [[read_result(path) for path in (COMMITTED / "cifar10" / name).glob("seed-*.json")] for name in names]
    assert all(runs)
    for better, worse in itertools.pairwise(runs):
        for pick in (lambda run: run.training["train/top1_error"], lambda run: run.errors["1crop"]["top1_error"]):
            assert max(map(pick, better)) < min(map(pick, worse))
