"""What CONTRIBUTING.md shows is true: its example of a new network trains, and its recipe is whole."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import models
from benchmarks.results import read_result

GUIDE = Path(__file__).parent.parent / ".github" / "CONTRIBUTING.md"


def example(language: str) -> str:
    """The only block of that language in the guide."""
    found = re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(found) == 1
    return found[0]


def test_the_example_of_a_new_network_is_one_file_and_one_recipe(
    bench: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "models"
    package.mkdir()
    (package / "all_cnn.py").write_text(example("python"))
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(package)])  # as if the file lay in models/
    recipe = tmp_path / "all_cnn.yaml"
    recipe.write_text(example("yaml"))
    status, _, err = bench("fit", "--config", str(recipe), "--seed_everything", "0", "--data.loader", "torch")
    assert status == 0, err
    results = [read_result(path) for path in (tmp_path / "runs").rglob("result.json")]
    assert len(results) == 1
    assert results[0].recipe == "custom/all_cnn"
    assert results[0].errors["1crop"]["count"] == 360
    assert results[0].errors["1crop"]["top1_error"] < 20  # it learns: chance is 90
