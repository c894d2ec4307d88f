"""Gabor fits and their companions against functions whose answer is known, and what holds on two photographs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from torch import nn

from benchmarks.phenomena import filters
from benchmarks.phenomena.analysis import AnalysisError
from benchmarks.phenomena.filters import (
    FilterSet,
    Gabor,
    draw_patches,
    first_convolution,
    fit_gabor,
    gray_filters,
    orientation_selectivity,
    participation_ratio,
    principal_components,
    sparse_code,
    whiten,
)


def test_a_gabor_function_is_found_again() -> None:
    for orientation, frequency, phase in ((0.3, 0.2, 0.5), (1.4, 0.12, 2.0), (2.6, 0.3, -1.0)):
        true = Gabor(1.0, 0.7, -1.1, 1.8, 2.6, orientation, frequency, 3.0, phase)
        found = fit_gabor(true.drawn(11, 11))
        assert found.r2 > 1 - 1e-6
        np.testing.assert_allclose(found.drawn(11, 11), true.drawn(11, 11), atol=1e-3)
        assert found.orientation == pytest.approx(orientation, abs=1e-3)
        assert found.envelope == pytest.approx(math.sqrt(1.8 * 2.6), rel=1e-3)


def test_a_gabor_function_by_hand() -> None:
    drawn = Gabor(1.0, 0.0, 0.0, 1.0, 2.0, 0.0, 0.25, 2.0, 0.0).drawn(3, 5)
    assert drawn[1, 2] == pytest.approx(2.0)  # the middle
    assert drawn[1, 3] == pytest.approx(0.0, abs=1e-12)  # a quarter of a wave to the right
    assert drawn[1, 4] == pytest.approx(-2.0 * math.exp(-2.0))  # half a wave, two widths
    assert drawn[0, 2] == pytest.approx(2.0 * math.exp(-1 / 8))  # half a width along the crest


def test_noise_is_no_gabor_function() -> None:
    noise = np.random.default_rng(0).standard_normal((8, 12, 12))
    assert np.median([fit_gabor(one).r2 for one in noise]) < 0.2


def test_orientation_selectivity_of_waves_and_blobs() -> None:
    y, x = filters.grid(15, 15)
    blob = np.exp(-(x**2 + y**2) / 8)
    assert orientation_selectivity(blob) < 0.01
    assert orientation_selectivity(np.cos(2 * np.pi * 0.25 * x) * np.exp(-(x**2 + y**2) / 60)) > 0.95
    crossed = (np.cos(2 * np.pi * 0.25 * x) + np.cos(2 * np.pi * 0.25 * y)) * np.exp(-(x**2 + y**2) / 60)
    assert orientation_selectivity(crossed) < 0.01


def test_participation_ratio_in_closed_form() -> None:
    single = np.zeros((4, 5))
    single[1, 2] = 3.0
    assert participation_ratio(single) == pytest.approx(1 / 20)
    assert participation_ratio(np.full((4, 5), -2.0)) == pytest.approx(1.0)
    noise = np.random.default_rng(0).standard_normal((300, 300))
    assert participation_ratio(noise) == pytest.approx(1 / 3, abs=0.01)


def test_colour_filters_in_one_direction() -> None:
    pattern = np.random.default_rng(0).standard_normal((7, 7))
    red_against_green = np.stack([pattern, -0.5 * pattern, 0 * pattern])
    gray = np.stack([pattern] * 3)
    found, share, achromatic = gray_filters(np.stack([red_against_green, gray]))
    np.testing.assert_allclose(share, 1.0)
    np.testing.assert_allclose(found[0], pattern * math.sqrt(1.25))
    np.testing.assert_allclose(found[1], pattern * math.sqrt(3))
    np.testing.assert_allclose(achromatic, [0.25 / 1.25 / 3, 1.0])


def test_whitening_scales_a_wave_as_the_paper_says() -> None:
    y, x = np.mgrid[:64, :64]
    slow, fast = np.cos(2 * np.pi * 4 * x / 64), np.cos(2 * np.pi * 16 * y / 64)
    whitened = whiten(slow + fast)
    amplitude = [2 * (whitened * wave).mean() for wave in (slow, fast)]
    f, cutoff = np.array([4 / 64, 16 / 64]), 200 / 512
    expected = f * np.exp(-((f / cutoff) ** 4))
    assert amplitude[1] / amplitude[0] == pytest.approx(expected[1] / expected[0])
    assert whitened.std() == pytest.approx(1)


def test_principal_components_are_those_of_scikit_learn() -> None:
    from sklearn.decomposition import PCA

    patches = draw_patches(
        [np.random.default_rng(1).standard_normal((40, 50)).cumsum(1)], 5, 400, np.random.default_rng(0)
    )
    assert np.abs(patches.mean(1)).max() < 1e-12
    ours, theirs = principal_components(patches, 3), PCA(3).fit(patches).components_
    np.testing.assert_allclose(np.abs((ours * theirs).sum(1)), 1.0)


def test_a_sparse_code_is_cheaper_than_principal_components() -> None:
    from sklearn.decomposition import sparse_encode

    generator = np.random.default_rng(1)
    atoms = np.linalg.qr(generator.standard_normal((8, 8)))[0][:4]
    patches = (
        np.eye(4)[generator.integers(4, size=400)] * generator.uniform(1, 2, (400, 1))
    ) @ atoms  # one atom in each

    def cost(dictionary: np.ndarray) -> float:
        codes = sparse_encode(patches, dictionary, algorithm="lasso_lars", alpha=0.1)
        return float(0.5 * np.square(patches - codes @ dictionary).sum() + 0.1 * np.abs(codes).sum()) / len(patches)

    found = sparse_code(patches, 4, alpha=0.1, epochs=10, seed=1)
    assert np.linalg.norm(found, axis=1).max() <= 1 + 1e-6  # or large atoms would make small codes
    assert cost(atoms) < cost(found) < 0.9 * cost(principal_components(patches, 4))


def test_networks_that_are_refused() -> None:
    with pytest.raises(
        AnalysisError, match=r"Sequential must have a convolution, it has none: give the --run of a conv"
    ):
        first_convolution(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
    with pytest.raises(AnalysisError, match=r"kernels \(=5x5\) must be at least 7x7, .*: give the --run of a network"):
        first_convolution(nn.Sequential(nn.Conv2d(1, 6, 5)))
    convolution = nn.Conv2d(3, 4, (7, 11))
    assert first_convolution(nn.Sequential(nn.ReLU(), convolution, nn.Conv2d(4, 4, 3))) is convolution


def test_a_run_of_a_network_without_convolutions(tmp_path: Any, bench: Any) -> None:
    quiet = ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
    assert bench("fit", "--config", "digits/mlp", "--seed_everything", "0", "--runs", tmp_path, *quiet)[0] == 0
    (folder,) = tmp_path.glob("digits/mlp/*/seed-0")
    status, _, err = bench("analyze", "filters", "--smoke", "--run", folder)
    assert status == 2
    assert "MLP must have a convolution, it has none: give the --run of a convolutional network" in err


def test_dead_filters_are_left_out() -> None:
    alive = np.random.default_rng(0).standard_normal((2, 7, 7))
    found = FilterSet.of("some", np.concatenate([alive, np.zeros((1, 7, 7))]))
    assert len(found.gabors) == len(found.filters) == 2
