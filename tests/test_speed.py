"""The table of a GPU by one command: parts in turn, failures said and passed over, what is there left alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import speed
from benchmarks.cli import parse
from benchmarks.speed import PARTS, SMALL
from benchmarks.step_throughput import parsed

Bench = Callable[..., tuple[int, str, str]]


class Here:
    """A process pool that is this process."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        pass

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Here:
        self.work = lambda: work(*arguments)
        return self

    def result(self) -> Any:
        return self.work()


class Side:
    """A side of `peers` that needs a second."""

    def __init__(self, *_: object) -> None:
        pass

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def seconds(self) -> float:
        return 1.0

    def answer(self, message: str) -> str:
        return "cpu"


def test_the_small_form_measures_goes_on_and_leaves_what_is_there(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.step_throughput.ProcessPoolExecutor", Here)
    monkeypatch.setattr("benchmarks.time_to_accuracy.ProcessPoolExecutor", Here)
    monkeypatch.setattr("benchmarks.step_peers.Side", Side)
    to = tmp_path / "measured"
    status, text, error = bench("speed", "--small", "--to", to)
    assert status == 0, error
    assert text.endswith("every part is there\n")
    assert {path.name for path in to.iterdir()} == set(SMALL)
    for name, arguments in SMALL.items():
        record = json.loads((to / name).read_text())
        assert {"versions", "commit", "command", "finished"} <= set(record)
        assert record["command"].startswith(f"python -m benchmarks {arguments[0]} digits/linear")
        assert str(tmp_path) not in (to / name).read_text()
    monkeypatch.setattr(speed, "measured", None)
    status, text, _ = bench("speed", "--small", "--to", to)
    assert status == 0
    assert text.count("is there, left as it is; remove it to measure anew") == len(SMALL)


def test_a_part_that_fails_is_said_and_the_others_follow(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    ran = []

    def failing(options: Any) -> int:
        if not options.json.startswith(str(tmp_path)):
            raise AssertionError(options.json)
        ran.append(options.command)
        if len(ran) == 1:
            raise ValueError("a kernel failed")
        if len(ran) == 2:
            return 1
        if len(ran) > 3:
            Path(options.json).write_text('{"finished": "now"}' if len(ran) > 4 else '{"half": ')
        return 0

    monkeypatch.setattr("benchmarks.cli.command", lambda name: speed.speed if name == "speed" else failing)
    status, text, error = bench("speed", "--to", tmp_path)
    assert status == 1
    assert ran == [arguments[0] for arguments in PARTS.values()]
    assert "a kernel failed" in error
    names = list(PARTS)
    assert text.endswith(f"failed: {', '.join(names[:4])}; the same command tries them again\n")
    assert text.count("FAILED, see above; the others follow") == 4
    status, text, _ = bench("speed", "--to", tmp_path)
    assert (status, len(ran)) == (0, 9)
    assert f"{names[4]}: is there, left as it is" in text


def test_every_part_is_a_command_whose_recipe_and_settings_parse(tmp_path: Path) -> None:
    found = []
    for arguments in PARTS.values():
        options = parse([*arguments, "--json", str(tmp_path / "a.json")])
        for recipe in getattr(options, "recipes", None) or [options.recipe]:
            found.append(parsed(options, recipe).name)
    assert found == [
        "imagenet/resnet50", "imagenet/resnet50", "cifar10/resnet20", "mnist/lenet5", "cifar10/resnet18_fast",
    ]  # fmt: skip
    assert options.seeds >= 10
    assert options.until == 94


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "speed is of a GPU, and torch sees none here"),
        (("--small",), "--small measures nothing that may stand in"),
        (("--small", "--to", "/proc/no"), "--to (=/proc/no) must be a folder that can be written"),
    ],
)
def test_what_is_refused(
    bench: Bench, arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, text, error = bench("speed", *arguments)
    assert (status, text) == (2, "")
    assert message in error
