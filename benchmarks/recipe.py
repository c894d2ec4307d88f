"""Recipes: one published result each, whole in one YAML file. Their names, contents and identity, without torch."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.published import Claim, Published

FOLDER = Path(__file__).parent / "recipes"

# What a run is given to run on, which is no part of a recipe's identity and changes its errors by noise at most: batch
# statistics and dropout are each rank's own, and for image files the loaders resample in different ways.
HARDWARE = frozenset(
    [f"data.init_args.{key}" for key in ("loader", "workers", "root", "cache", "eval_batch_size")]
    + [
        f"trainer.{key}"
        for key in (
            "accelerator", "strategy", "devices", "num_nodes", "logger", "profiler",
            "default_root_dir", "log_every_n_steps", "enable_progress_bar", "enable_model_summary",
            "enable_checkpointing", "num_sanity_val_steps", "check_val_every_n_epoch", "benchmark",
            "detect_anomaly", "limit_val_batches",
        )
    ]
)  # fmt: skip

# Settings that name a file to start from. The file counts by its content: elsewhere it makes the same run, and another
# file in its place another run.
FILES = frozenset(["model.init_args.weights", "model.init_args.start_from"])

PARTS = frozenset(["published", "model", "data", "trainer"])
ARGUMENTS = frozenset(["seed_everything", "runs", "again", "ckpt_path"])  # of the command; in a run's own recipe.yaml


class RecipeError(ValueError):
    """A recipe that does not exist or cannot be read; the message names the remedy."""


@dataclass(frozen=True)
class Recipe:
    """A recipe as its file says. `name` is dataset/network, `settings` its flat model, data and trainer settings."""

    name: str
    path: Path
    settings: dict[str, Any]
    published: Published

    @property
    def dataset(self) -> str:
        """The folder of the recipe, which is its dataset's name."""
        return self.name.split("/")[0]

    @property
    def identity(self) -> str:
        """Hash of what decides the result, but for the seed."""
        return identity(self.settings)


def identity(settings: dict[str, Any]) -> str:
    """Twelve hexadecimal digits that change with every setting that can change a result.

    Settings are those the recipe writes down, and overrides that change one. Defaults that nobody wrote down do not
    count, or a new release of Lightning would turn every finished run into an unfinished one; the result file holds
    them all. Hardware, paths and presentation (`HARDWARE`) do not count either, and files count by their content
    (`by_content`).
    """
    counted = {key: value for key, value in settings.items() if not is_hardware(key)}
    return hashlib.sha256(json.dumps(counted, sort_keys=True, default=str).encode()).hexdigest()[:12]


def is_hardware(key: str) -> bool:
    """Whether a flat key such as `trainer.devices` or `trainer.logger.init_args.project` is listed in `HARDWARE`."""
    parts = key.split(".")
    return any(".".join(parts[:length]) in HARDWARE for length in range(2, len(parts) + 1))


def by_content(settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` with `sha256:` and twelve digits for each file that `FILES` names; what is no file stays as it is."""
    files = {key: Path(str(settings[key])) for key in FILES & settings.keys()}
    return settings | {key: f"sha256:{sha256(path)[:12]}" for key, path in files.items() if path.is_file()}


def sha256(path: Path) -> str:
    """What `sha256sum` prints for the file, read piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; lists are values."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + str(key)] = value
    return flat


def recipe_name(path: Path) -> str:
    """`mnist/lenet5` for a file of the suite, `custom/NAME` for anybody else's."""
    resolved = path.resolve()
    if resolved.is_relative_to(FOLDER):
        return resolved.relative_to(FOLDER).with_suffix("").as_posix()
    return f"custom/{path.stem}"


def find_recipe(text: str) -> Path:
    """The file that `text` names: a path, or a recipe's name such as `mnist/lenet5`.

    Raises:
        RecipeError: there is none; the message lists the closest names.
    """
    for candidate in (Path(text), FOLDER / text, FOLDER / f"{text}.yaml"):
        if candidate.is_file():
            return candidate
    names = [recipe_name(path) for path in recipe_paths()]
    wanted = text.removesuffix(".yaml").split("recipes/")[-1]
    close = difflib.get_close_matches(wanted, names, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(names)}."
    raise RecipeError(f"recipe (={text}) is neither a file nor a recipe of the suite: {hint}")


def recipe_paths() -> list[Path]:
    """Every recipe file of the suite, sorted by name."""
    return sorted(FOLDER.rglob("*.yaml"))


def load_recipe(path: Path) -> Recipe:
    """Read one recipe. Values are not checked here; LightningCLI does that when the recipe is run.

    Raises:
        RecipeError: the file is no YAML, or lacks or misspells a part.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise RecipeError(f"{path} cannot be read as YAML ({error}): correct it at that place.") from None
    if not isinstance(content, dict) or not set(content) >= PARTS:
        raise RecipeError(f"{path} must have the four parts published, model, data and trainer: see {FOLDER}.")
    if unknown := sorted(set(content) - PARTS - ARGUMENTS):
        raise RecipeError(f"{path} has a part {', '.join(unknown)}, which does not exist: correct or remove it.")
    published = content.pop("published")
    try:
        claims = [Claim(**claim) for claim in published.pop("claims", [])]
        source = Published(**published, claims=claims)
    except (TypeError, AttributeError) as error:
        raise RecipeError(
            f"{path}: the part `published` is not as it must be ({error}): see benchmarks/published.py."
        ) from None
    settings = flatten({part: content[part] for part in ("model", "data", "trainer")})
    return Recipe(recipe_name(path), path, by_content(settings), source)


def all_recipes() -> Iterator[Recipe]:
    """Every recipe of the suite, sorted by name."""
    return map(load_recipe, recipe_paths())
