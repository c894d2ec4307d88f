"""Options of analyses with several studies: which study has which, how little is too little, and the device."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, Literal, TypeVar

import torch

from benchmarks.phenomena.analysis import AnalysisError
from benchmarks.phenomena.finished import FinishedRun

Device = Literal["auto", "cpu", "cuda"]
Settings = TypeVar("Settings")


def check_run(study: str, run: FinishedRun | None) -> None:
    """Refuse a run without `--study run`, and `--study run` without one.

    Raises:
        AnalysisError: as said.
    """
    if study != "run" and run is not None:
        raise AnalysisError(
            f"--run (={run.name}) is for --study run, {study} trains networks of its own: add --study run."
        )
    if study == "run" and run is None:
        raise AnalysisError(
            "--study (=run) needs a trained network: --run with the folder seed-N of a finished run. "
            "`python -m benchmarks fit --config mnist/lenet5 --seed_everything 0` trains one."
        )


def check_given(
    study: str, given: Mapping[str, Any], studies: Mapping[str, Collection[str]], least: Mapping[str, float]
) -> None:
    """Refuse options that `study` has not, and values below the least that makes sense. What is None was not given.

    Args:
        study: the one that was asked for.
        given: options and their values.
        studies: of each option; one that is not named here is every study's.
        least: value of an option.

    Raises:
        AnalysisError: as said.
    """
    for name, value in given.items():
        if value is None:
            continue
        if study not in studies.get(name, (study,)):
            raise AnalysisError(f"--{name} (={value}) is for {' and '.join(studies[name])}, not {study}: leave it out.")
        if name in least and value < least[name]:
            raise AnalysisError(f"--{name} (={value}) must be at least {least[name]}: leave it out for the preset's.")


def changed(settings: Settings, given: Mapping[str, Any]) -> Settings:
    """The preset's `settings`, a dataclass, with what was given; lists become tuples."""
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return dataclasses.replace(settings, **{k: v for k, v in values.items() if v is not None})  # type: ignore[type-var]


def place(device: Device) -> torch.device:
    """The device that is asked for; `auto` is a GPU where there is one.

    Raises:
        AnalysisError: there is no such GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise AnalysisError("--device (=cuda) must be there, torch sees no GPU: use --device cpu, or auto.")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
