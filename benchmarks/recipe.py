"""Recipes: one published result each, whole in one YAML file. Their names, contents and identity, without torch.

Most train a network. An ensemble's recipe has `members` instead of model, data and trainer: recipes with their seeds,
each a run of its own, or files of weights for a recipe's network.

    members:
    - recipe: imagenet/zfnet          # its name, or a file
      seeds: [0, 1, 2, 3, 4]          # of its runs; or weights: FILE, instead of a run
      protocol: 10crop                # only where claims say ens-N and not ens-N-PROTOCOL
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.published import Claim, Published

FOLDER = Path(__file__).parent / "recipes"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML was built with libyaml

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
ENSEMBLE_PARTS = frozenset(["published", "members"])
ARGUMENTS = frozenset(["seed_everything", "runs", "again", "ckpt_path"])  # of the command; in a run's own recipe.yaml


class RecipeError(ValueError):
    """A recipe that does not exist or cannot be read; the message names the remedy."""


@dataclass(frozen=True)
class Member:
    """A network of an ensemble: the run of a recipe with a seed, or a recipe's network with weights from a file.

    Args:
        recipe: its name.
        path: its file.
        identity: hash of its settings, the content of the file of weights among them.
        seed: of its run; None for weights from a file.
        weights: the file.
        protocol: how it is evaluated where the ensemble's protocol does not say.
    """

    recipe: str
    path: Path
    identity: str
    seed: int | None = None
    weights: str | None = None
    protocol: str | None = None

    def __str__(self) -> str:
        return f"{self.recipe} seed {self.seed}" if self.weights is None else f"{self.recipe} with {self.weights}"

    def settings(self) -> dict[str, Any]:
        """What of it decides the ensemble's result; of weights the identity knows the content."""
        found = {"recipe": self.recipe, "identity": self.identity, "seed": self.seed, "protocol": self.protocol}
        return {key: value for key, value in found.items() if value is not None}


@dataclass(frozen=True)
class Recipe:
    """A recipe as its file says.

    Args:
        name: dataset/network.
        path: its file.
        settings: flat settings of model, data and trainer; of an ensemble, what identifies its `members`.
        published: what its source claims.
        members: the networks of an ensemble; none for a recipe that trains one.
    """

    name: str
    path: Path
    settings: dict[str, Any]
    published: Published
    members: tuple[Member, ...] = ()

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
        RecipeError: the file is no YAML, is empty, or lacks or misspells a part.
    """
    content = read_yaml(path)
    parts = ENSEMBLE_PARTS if isinstance(content, dict) and "members" in content else PARTS
    if not isinstance(content, dict) or not set(content) >= parts:
        raise RecipeError(
            f"{path} must have the four parts published, model, data and trainer, or, for an ensemble, published and "
            f"members: see {FOLDER}."
        )
    if unknown := sorted(map(str, set(content) - parts - (ARGUMENTS if parts is PARTS else set()))):
        raise RecipeError(f"{path} has a part {', '.join(unknown)}, which does not exist: correct or remove it.")
    published = content.pop("published")
    try:
        claims = [Claim(**claim) for claim in published.pop("claims", [])]
        source = Published(**published, claims=claims)
    except (TypeError, AttributeError) as error:
        raise RecipeError(
            f"{path}: the part `published` is not as it must be ({error}): see benchmarks/published.py."
        ) from None
    check_numbers(path, claims)
    if parts is ENSEMBLE_PARTS:
        members = read_members(path, content["members"])
        settings: dict[str, Any] = {"members": [member.settings() for member in members]}
        return Recipe(recipe_name(path), path, settings, source, members)
    settings = flatten({part: content[part] for part in ("model", "data", "trainer")})
    return Recipe(recipe_name(path), path, by_content(settings), source)


def read_yaml(path: Path) -> Any:
    """What the file of a recipe, a grid or settings holds.

    Raises:
        RecipeError: it is no text in UTF-8, no YAML, or empty.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), LOADER)
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} must be text in UTF-8 ({error}): save it as that.") from None
    except (OSError, ValueError, yaml.YAMLError) as error:  # a ValueError for 2026-13-01, which is no date
        raise RecipeError(f"{path} cannot be read as YAML ({error}): correct it at that place.") from None
    if content is None:
        raise RecipeError(f"{path} is empty: write settings into it, or name another file.")
    return content


def check_numbers(path: Path, claims: list[Claim]) -> None:
    """Refuse claims whose numbers are none, before a result carries them.

    Raises:
        RecipeError: a value that is not finite, a tolerance or a spread that is not finite and above 0.
    """
    for claim in claims:
        numbers: dict[str, Any] = {"value": claim.value, "tolerance": claim.tolerance}
        numbers |= {} if claim.spread is None else {"spread": claim.spread}
        for name, value in numbers.items():
            finite = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not finite or (name != "value" and value <= 0):
                rule = "a finite number" + " above 0" * (name != "value")
                raise RecipeError(f"{path}: {name} (={value}) of a claim must be {rule}, in points of error: correct.")


def read_members(path: Path, lines: Any) -> tuple[Member, ...]:
    """The members that the recipe of an ensemble at `path` lists.

    Raises:
        RecipeError: fewer than two, one twice, a recipe that does not exist or is an ensemble, an unknown key.
    """
    members: list[Member] = []
    for line in lines if isinstance(lines, list) else [lines]:
        if not isinstance(line, dict) or "recipe" not in line or set(line) - {"recipe", "seeds", "weights", "protocol"}:
            raise RecipeError(f"{path}: a member (={line}) must be recipe, with seeds or weights, and maybe protocol.")
        recipe = load_recipe(find_recipe(str(line["recipe"])))
        if recipe.members:
            raise RecipeError(f"{path}: member {recipe.name} is an ensemble itself: list its members instead.")
        seeds, weights = line.get("seeds"), line.get("weights")
        whole = isinstance(seeds, list) and seeds and all(type(seed) is int and seed >= 0 for seed in seeds)
        if not (isinstance(weights, str) if seeds is None else whole and weights is None):
            raise RecipeError(
                f"{path}: member {recipe.name} must have either seeds (={seeds}), a list such as [0, 1, 2], or weights "
                f"(={weights}), a file."
            )
        settings = recipe.settings
        if weights is not None:
            settings = by_content({**settings, "model.init_args.weights": weights})
        for seed in seeds or [None]:
            members.append(Member(recipe.name, recipe.path, identity(settings), seed, weights, line.get("protocol")))
    if len(members) < 2:
        raise RecipeError(f"{path} must have at least 2 members, it has {len(members)}: one network is no ensemble.")
    found = [member.settings() | {"protocol": None} for member in members]
    if twice := [str(member) for member, one in zip(members, found, strict=True) if found.count(one) > 1]:
        raise RecipeError(f"{path} has member {twice[0]} more than once: leave the others out.")
    if len({member.protocol is None for member in members}) > 1:
        raise RecipeError(f"{path}: either all members must have a protocol of their own, or none.")
    return tuple(members)


def all_recipes() -> Iterator[Recipe]:
    """Every recipe of the suite, sorted by name."""
    return map(load_recipe, recipe_paths())
