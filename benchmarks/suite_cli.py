"""From a command's arguments to data, network and trainer: LightningCLI on a recipe."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
import yaml
from jsonargparse.typing import PositiveFloat
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI

from benchmarks.callbacks import DivergenceGuard, EpochSeed, EpochTable, Mirror, RunProgress, StepTable
from benchmarks.checkpoints import CheckpointIOBehind, WholeCheckpointIO, last_epoch
from benchmarks.errors import without_noise
from benchmarks.lean import NoProfiler, skip_empty_hooks
from benchmarks.lease import Lease
from benchmarks.lifecycle import Agreement, EpochState, StepCheckpoint
from benchmarks.published import Published
from benchmarks.recipe import (
    LOADER,
    Recipe,
    RecipeError,
    by_content,
    find_recipe,
    flatten,
    identity,
    is_hardware,
    load_recipe,
    read_yaml,
)
from benchmarks.runs import Run, RunError, runs_root
from benchmarks.throughput import Throughput
from datamodules.base import ImageDataModule
from models.classifier import Classifier

AS_WRITTEN: dict[tuple[str, str], dict[str, Any]] = {}  # settings of recipes, by path and text; parsing takes a second


class SuiteCLI(LightningCLI):
    """LightningCLI that parses a recipe at once and builds data, network and trainer only when asked to.

    Adds `published`, `--runs`, `--again`, `--wait`, `--checkpoint_minutes`, `--checkpoint_behind`, `--pictures`,
    `--wandb` and `--ckpt_path`, and links the number of classes and the seed.
    """

    def __init__(self, command: str, arguments: list[str]) -> None:
        self.command = command
        self.resume_from: Path | None = None  # the checkpoint that training goes on from
        self.mirror: Mirror | None = None  # what sends a training run to W&B
        logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # no advice on other products
        super().__init__(
            model_class=Classifier,
            datamodule_class=ImageDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            save_config_callback=None,
            seed_everything_default=False,
            trainer_defaults={
                "logger": False,
                "num_sanity_val_steps": 0,
                "enable_model_summary": False,
            },
            parser_kwargs={
                "prog": f"python -m benchmarks {command}",
                "description": COMMANDS[command],
                "exit_on_error": False,
                "allow_abbrev": False,  # --trainer.max_epoch is a mistake, not max_epochs
            },
            args=arguments,
            run=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what recipes and runs have beyond Lightning's own arguments."""
        parser.add_argument("--published", type=Published | None, default=None, help="what the recipe's source claims")
        parser.add_argument("--runs", type=str | None, default=None, help="folder of all runs; default: runs")
        if self.command == "fit":
            parser.add_argument(
                "--again", action="store_true", help="train anew although the run exists; the old one is kept aside"
            )
            parser.add_argument(
                "--wait", action="store_true", help="wait for another process that trains this run, instead of leaving"
            )
            parser.add_argument(
                "--checkpoint_minutes",
                type=PositiveFloat,
                default=10.0,
                help="minutes between checkpoints within an epoch; there is one at the end of each anyway",
            )
            parser.add_argument(
                "--checkpoint_behind",
                action="store_true",
                help="write checkpoints in a thread while training goes on; takes the memory of one more checkpoint",
            )
            parser.add_argument(
                "--pictures",
                type=bool,
                default=os.environ.get("ILSVRC_BENCH_PICTURES") != "0",
                help="draw the finished run, in a second or two; default: true, unless $ILSVRC_BENCH_PICTURES is 0",
            )
            parser.add_argument(
                "--wandb",
                type=Literal["auto", "online", "offline", "disabled"] | None,
                default=None,
                help="send the run to W&B: auto (default, or $WANDB_MODE) where there is a key and a network; "
                "`sync` sends it later, unless disabled; $WANDB_PROJECT and $WANDB_ENTITY say where to",
            )
        else:
            parser.add_argument(
                "--ckpt_path",
                type=str | None,
                default=None,
                help="checkpoint; default: the file of --model.weights where that is given, else the run's own",
            )
        parser.link_arguments("data.num_classes", "model.init_args.num_classes", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=data_seed)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, with the names of recipes allowed where `--config` wants a file."""
        arguments = name_files(list(args))  # type: ignore[arg-type]
        check_arguments(self.command, arguments)
        self.flags = {argument.partition("=")[0] for argument in arguments}
        self.config = parser.parse_args(arguments)

    def _set_seed(self) -> None:
        """Seeding waits for `build`: parsing must not change the state of a process that only asks."""

    def instantiate_classes(self) -> None:
        """Nothing yet: see `build`."""

    def callbacks(self, lease: Lease | None = None) -> list[pl.Callback]:
        """What watches a training run, whose lock is `lease`."""
        agreement, guard, clock = Agreement(), DivergenceGuard(self.run.checkpoint), Throughput()
        state = EpochState(self.seed, agreement)
        steps, epochs = StepTable(self.run.steps, clock), EpochTable(self.run.metrics)
        self.mirror = Mirror(self.run, steps, epochs)
        return [
            EpochSeed(self.seed),
            guard,
            clock,
            RunProgress(f"{self.recipe.name} seed {self.seed}"),
            steps,
            epochs,
            self.mirror,
            state,
            last_epoch(self.run.checkpoint),
            StepCheckpoint(self.run, self.config.checkpoint_minutes, agreement, state, guard, clock, lease),
        ]

    def build(self, callbacks: list[pl.Callback]) -> None:
        """Seed, then make `datamodule`, `model` and `trainer`; try the network on one black image, and the optimizer.

        Raises:
            RecipeError: the network or the dataset refuses its settings, or they do not fit each other.
        """
        pl.seed_everything(self.seed, workers=True, verbose=False)
        try:
            self.config_init = self.parser.instantiate_classes(self.config)
            self.config_init["model"].load_weights()
            try_network(self.config_init["model"], self.config_init["data"])
            try_optimizer(self.config_init["model"])
        except ValueError as error:
            raise RecipeError(without_noise(str(error))) from error
        self.datamodule = self.config_init["data"]
        self.model = self.config_init["model"].to(memory_format=torch.channels_last)
        settings = dict(self.config_init["trainer"])
        settings["accelerator"] = usable(settings["accelerator"])
        if settings["enable_progress_bar"] is False:
            callbacks = [callback for callback in callbacks if not isinstance(callback, RunProgress)]
        # The recipe's own come last, so that Throughput's clock has stopped before they use the end of an epoch.
        settings["callbacks"] = [*callbacks, *as_list(settings["callbacks"])]
        checkpoints = CheckpointIOBehind if self.config.get("checkpoint_behind") else WholeCheckpointIO
        with quiet_warnings():
            settings["plugins"] = [*as_list(settings["plugins"]), checkpoints(self.resume_from), *slurm_plugins()]
            settings["profiler"] = settings["profiler"] or NoProfiler()
            try:
                self.trainer = pl.Trainer(**settings)
            except ValueError as error:
                raise RunError(f"Lightning's Trainer refuses its settings ({error}): correct --trainer.") from None
            check_tasks(self.trainer.world_size)
        skip_empty_hooks(self.trainer, self.model)
        if self.command == "fit":
            try_training(self.model, self.datamodule, self.trainer.world_size * self.trainer.accumulate_grad_batches)

    @cached_property
    def seed(self) -> int:
        """The seed, which every run must be given.

        Raises:
            RunError: there is none.
        """
        seed = self.config.get("seed_everything")
        if seed is None or isinstance(seed, bool):
            given = " (=True)" if seed else ""  # False where nothing was given
            raise RunError(
                f"--seed_everything{given} must be given, a whole number: a run is known by its recipe and its seed. "
                "Add --seed_everything 0."
            )
        if not 0 <= seed < 2**32:
            raise RunError(f"--seed_everything (={seed}) must not be negative, and below 2^32: use 0, 1, 2, ...")
        return seed

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe that the first `--config` names.

        Raises:
            RecipeError: it is not whole, or sets what is linked.
        """
        recipe = load_recipe(Path(str(self.config["config"][0])))
        for key, why in LINKED.items():
            if key in recipe.settings:
                raise RecipeError(f"{recipe.path} sets {key} (={recipe.settings[key]}), but {why}: remove the line.")
        return recipe

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """Every setting of model, data and trainer, flat, defaults and overrides included; files by their content."""
        return self._resolve(self._dumped)

    @cached_property
    def overrides(self) -> dict[str, Any]:
        """Settings, other than hardware, in which this run differs from its recipe as it stands."""
        if not self._asks_for_settings():
            return {}
        as_it_stands = self._resolve(self._dumped_as_written())
        missing = object()
        return {
            key: self.resolved.get(key)
            for key in sorted({*as_it_stands, *self.resolved})
            if self.resolved.get(key, missing) != as_it_stands.get(key, missing) and not is_hardware(key)
        }

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What the recipe writes down, with the overrides: what the run's identity is made of."""
        changed = {**self.recipe.settings, **self.overrides}
        return {key: value for key, value in changed.items() if key in self.resolved or key in self.recipe.settings}

    @cached_property
    def run(self) -> Run:
        """The folder of this recipe, these settings and this seed."""
        return Run.of(runs_root(self.config.get("runs")), self.recipe.name, identity(self.settings), self.seed)

    def _asks_for_settings(self) -> bool:
        """Whether the arguments can differ from the recipe in more than hardware."""
        settings = [
            flag.removeprefix("--") for flag in self.flags if flag.startswith(("--model", "--data", "--trainer"))
        ]
        return len(self.config["config"]) > 1 or not all(map(is_hardware, settings))

    @cached_property
    def _dumped(self) -> dict[str, Any]:
        """Every setting, nested, as it would be written in a recipe."""
        return self._dump(self.config)

    def _dumped_as_written(self) -> dict[str, Any]:
        """Every setting of the recipe without arguments; parsed once for all runs of it that a process asks about."""
        path = str(self.recipe.path)
        key = path, Path(path).read_text(encoding="utf-8")
        if key not in AS_WRITTEN:
            AS_WRITTEN[key] = self._dump(self.parser.parse_args(["--config", path]))
        return AS_WRITTEN[key]

    def _dump(self, config: Any) -> dict[str, Any]:
        text = self.parser.dump(config, skip_link_targets=True, skip_none=False, format="yaml")
        nested: dict[str, Any] = yaml.load(text, LOADER)
        return nested

    def _resolve(self, nested: dict[str, Any]) -> dict[str, Any]:
        return by_content(flatten({part: nested[part] for part in ("model", "data", "trainer")}))

    def recipe_text(self) -> str:
        """Every setting of the run, defaults included, as a recipe: under the name custom/recipe, another run."""
        parts = ("seed_everything", "published", "model", "data", "trainer")
        return yaml.safe_dump({part: self._dumped[part] for part in parts}, sort_keys=False)


COMMANDS = {
    "fit": "Train a recipe, evaluate its last epoch under each protocol its claims name, write the result.",
    "validate": "Evaluate a run's checkpoint on the validation images.",
    "test": "Evaluate a run's checkpoint on the test images under each protocol the recipe's claims name.",
}


def try_network(network: Classifier, data: ImageDataModule) -> None:
    """One black image of every size that it will see through the network, which comes back as it was.

    Raises:
        ValueError: the network does not take images of some size, or does not tell as many classes.
    """
    training = network.training
    for size in data.sizes():
        image = torch.zeros(1, len(data.mean), size, size)
        try:
            with torch.no_grad():
                logits = network.eval()(image)
        except RuntimeError as error:  # torch's own complaint about shapes
            raise ValueError(f"the network does not take images of shape {list(image.shape[1:])}: {error}") from None
        finally:
            network.train(training)
        if logits.shape != (1, data.num_classes):
            raise ValueError(
                f"the network gives {list(logits.shape[1:])} scores, the dataset has {data.num_classes} classes."
            )


def try_optimizer(network: Classifier) -> None:
    """Build the optimizer and the schedule.

    Raises:
        ValueError: they refuse their settings.
    """
    try:
        network.configure_optimizers()
    except ValueError as error:
        if str(error).endswith("."):  # one of ours, with its remedy
            raise
        raise ValueError(f"model.init_args.optimizer or lr_scheduler: {error}. Correct that setting.") from None


def try_training(network: Classifier, data: ImageDataModule, parts: int) -> None:
    """One or two black images through the network as it trains, which leaves it and the random numbers as they were.

    Two, unless a step has less for each of its `parts`, devices times accumulated batches: batch norm may need them.

    Raises:
        RecipeError: the network cannot train on so many images of their size.
    """
    count = max(1, min(2, data.batch_size // parts))
    images = torch.zeros(count, len(data.mean), data.image_size, data.image_size)
    kept = {name: buffer.clone() for name, buffer in network.named_buffers()}
    training = network.training
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            network.train()(images)
    except (ValueError, RuntimeError) as error:
        raise RecipeError(
            f"the network cannot train on {count} {'images' if count > 1 else 'image'} of {data.image_size} x "
            f"{data.image_size} pixels for each device and step ({error}). Batch norm needs 2 where a map is a single "
            "pixel: raise data.init_args.batch_size, use fewer devices or norm: none. Auxiliary classifiers may need "
            "larger images: raise data.init_args.image_size."
        ) from error
    finally:
        network.train(training)
        for name, buffer in network.named_buffers():
            buffer.copy_(kept[name])


def data_seed(seed: bool | int) -> int:
    """The seed of order and augmentation: the run's own, or 0 where a command needs none."""
    return 0 if isinstance(seed, bool) else seed


def as_list(value: Any) -> list[Any]:
    """None, one thing or a list of things, as a list."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def slurm_plugins() -> list[Any]:
    """In a SLURM job, Lightning's SLURM environment without its own requeueing, whose handler can deadlock."""
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


def usable(accelerator: Any) -> Any:
    """Lightning's `auto`, but never Apple's GPU.

    Raises:
        RunError: that is asked for.
    """
    only_apple = torch.backends.mps.is_available() and not torch.cuda.is_available()
    if accelerator == "mps" or (accelerator == "gpu" and only_apple):
        raise RunError(
            f"--trainer.accelerator (={accelerator}) must be a device with 64-bit numbers, in which losses are summed; "
            "Apple's GPU has none: leave it out, the CPU trains."
        )
    return "cpu" if accelerator == "auto" and only_apple else accelerator


def check_tasks(world_size: int) -> None:
    """Every task that srun started must be a rank of this run.

    Raises:
        RunError: they would train independently of each other, each believing itself rank 0.
    """
    tasks = int(os.environ.get("SLURM_NTASKS") or 1)
    if SLURMEnvironment.detect() and tasks != world_size:
        raise RunError(
            f"SLURM has {tasks} tasks, the trainer {world_size} ranks; they must be equal: start with srun, give "
            "--trainer.devices the tasks per node and --trainer.num_nodes the nodes, as slurm/train.sbatch does."
        )


LINKED = {
    "model.num_classes": "it comes from the dataset",
    "model.init_args.num_classes": "it comes from the dataset",
    "data.seed": "it comes from --seed_everything",
    "data.init_args.seed": "it comes from --seed_everything",
}


def check_arguments(command: str, arguments: list[str]) -> None:
    """A recipe must be given, and what is linked must not be.

    Raises:
        RecipeError: as said; without this, a linked value given by hand would be replaced silently.
    """
    flags = [argument.partition("=")[0] for argument in arguments]
    if not {"--config", "-c", "--help", "-h", "--model.help", "--data.help", "--trainer.help"} & set(flags):
        raise RecipeError(
            f"{command} needs a recipe: --config benchmarks/recipes/mnist/lenet5.yaml, for example. "
            "`python -m benchmarks list` shows them all."
        )
    for key, why in LINKED.items():
        if f"--{key}" in flags:
            raise RecipeError(f"--{key} cannot be given: {why}. Leave it out.")


def name_files(arguments: list[str]) -> list[str]:
    """The arguments with each recipe's name after `--config` or `-c` turned into its file.

    Raises:
        RecipeError: there is no such file and no such recipe.
    """
    found = list(arguments)
    for index, argument in enumerate(found):
        flag, equals, value = argument.partition("=")
        if flag not in ("--config", "-c"):
            continue
        if equals:
            found[index] = f"{flag}={find_trained(value)}"
        elif index + 1 < len(found):
            found[index + 1] = str(find_trained(found[index + 1]))
    return found


def find_trained(text: str) -> Path:
    """The file that `text` names.

    Raises:
        RecipeError: there is none, it holds no settings, or it is an ensemble.
    """
    path = find_recipe(text)
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise RecipeError(
            f"{path} must hold settings by name, not a {type(content).__name__}: write trainer: and below it "
            "max_epochs: 3, for example."
        )
    if "members" in content:
        raise RecipeError(
            f"{text} is an ensemble, whose members are trained one by one: `python -m benchmarks ensemble {text}` "
            "evaluates it and says which members are to be trained."
        )
    return path


@contextmanager
def quiet_warnings() -> Iterator[None]:
    """Without Lightning's advice that does not fit this suite."""
    with warnings.catch_warnings():
        # Lightning asks torch in a way that torch 2.15 deprecates.
        warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
        # The loaders decode in threads or index arrays; more DataLoader workers would not help.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # Errors are summed over ranks before they are logged.
        warnings.filterwarnings("ignore", message=".*recommended to use `self.log.*sync_dist=True.*")
        # Small datasets have few steps an epoch; nothing is logged per step.
        warnings.filterwarnings("ignore", message=".*The number of training batches.*")
        # On a login node a run without srun is meant to be one.
        warnings.filterwarnings("ignore", message="The `srun` command is available")
        # A resumed run finds its own checkpoint there.
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        # The run folder was moved; only the newest checkpoint is kept, and it goes on from that.
        warnings.filterwarnings("ignore", message="The dirpath has changed from")
        yield
