"""`fit`, `validate` and `test`: LightningCLI on a recipe, in a run folder that knows what is already done."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.plugins.environments import SLURMEnvironment

from benchmarks import results
from benchmarks.callbacks import DivergenceGuard, EpochSeed, EpochTable, RunProgress
from benchmarks.checkpoints import WholeCheckpointIO, last_epoch
from benchmarks.protocols import Evaluation, check_protocols
from benchmarks.published import Published
from benchmarks.recipe import Recipe, RecipeError, find_recipe, flatten, identity, is_hardware, load_recipe
from benchmarks.runs import Run, RunError, runs_root
from benchmarks.throughput import Throughput
from datamodules.base import ImageDataModule
from models.classifier import Classifier

log = logging.getLogger("benchmarks")


class SuiteCLI(LightningCLI):
    """LightningCLI that parses a recipe at once and builds data, network and trainer only when asked to.

    Adds `published`, `--runs`, `--again` and `--ckpt_path`, and links the number of classes and the seed.
    """

    def __init__(self, command: str, arguments: list[str]) -> None:
        self.command = command
        self.built = False
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
        else:
            parser.add_argument("--ckpt_path", type=str | None, default=None, help="checkpoint; default: the run's own")
        parser.link_arguments("data.num_classes", "model.init_args.num_classes", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=data_seed)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, with the names of recipes allowed where `--config` wants a file."""
        self.arguments = name_files(list(args))  # type: ignore[arg-type]
        self.config = parser.parse_args(self.arguments)

    def _set_seed(self) -> None:
        """Seeding waits for `build`: parsing must not change the state of a process that only asks."""

    def instantiate_classes(self) -> None:
        """Nothing yet: see `build`."""

    def callbacks(self) -> list[pl.Callback]:
        """What watches a training run: `throughput` is kept for the result."""
        self.throughput = Throughput()
        return [
            EpochSeed(self.seed),
            DivergenceGuard(self.run.checkpoint),
            self.throughput,
            RunProgress(f"{self.recipe.name} seed {self.seed}"),
            EpochTable(self.run.metrics),
            last_epoch(self.run.checkpoint),
        ]

    def build(self, callbacks: list[pl.Callback]) -> None:
        """Seed, then make `datamodule`, `model` and `trainer`."""
        pl.seed_everything(self.seed, workers=True, verbose=False)
        self.config_init = self.parser.instantiate_classes(self.config)
        self.datamodule = self.config_init["data"]
        self.model = self.config_init["model"].to(memory_format=torch.channels_last)
        settings = dict(self.config_init["trainer"])
        if settings["enable_progress_bar"] is False:
            callbacks = [callback for callback in callbacks if not isinstance(callback, RunProgress)]
        settings["callbacks"] = [*as_list(settings["callbacks"]), *callbacks]
        settings["plugins"] = [*as_list(settings["plugins"]), WholeCheckpointIO(), *slurm_plugins()]
        self.trainer = pl.Trainer(**settings)
        check_tasks(self.trainer.world_size)

    @cached_property
    def seed(self) -> int:
        """The seed, which every run must be given.

        Raises:
            RunError: there is none.
        """
        seed = self.config.get("seed_everything")
        if seed is None or isinstance(seed, bool):
            raise RunError(
                f"--seed_everything (={seed}) must be a number: a run is known by its recipe and its seed. "
                "Add --seed_everything 0."
            )
        if seed < 0:
            raise RunError(f"--seed_everything (={seed}) must not be negative: use 0, 1, 2, ...")
        return seed

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe that the first `--config` names.

        Raises:
            RecipeError: none is given.
        """
        files = self.config.get("config") or []
        if not files:
            raise RecipeError(
                f"{self.command} needs a recipe: --config benchmarks/recipes/mnist/lenet5.yaml, for example. "
                "`python -m benchmarks list` shows them all."
            )
        return load_recipe(Path(str(files[0])))

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """Every setting of model, data and trainer, flat, defaults and overrides included."""
        return self._resolve(self.config)

    @cached_property
    def overrides(self) -> dict[str, Any]:
        """Settings, other than hardware, in which this run differs from its recipe as it stands."""
        as_it_stands = self._resolve(self.parser.parse_args(["--config", str(self.recipe.path)]))
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

    def _resolve(self, config: Any) -> dict[str, Any]:
        nested = yaml.safe_load(self.parser.dump(config, skip_link_targets=True, skip_none=False, format="yaml"))
        return flatten({part: nested[part] for part in ("model", "data", "trainer")})

    def recipe_text(self) -> str:
        """Every setting of the run as YAML that `--config` reads."""
        return self.parser.dump(self.config, skip_link_targets=True, skip_none=False, format="yaml")


COMMANDS = {
    "fit": "Train a recipe, evaluate its last epoch under each protocol its claims name, write the result.",
    "validate": "Evaluate a run's checkpoint on the validation images.",
    "test": "Evaluate a run's checkpoint on the test images under each protocol the recipe's claims name.",
}


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
            found[index] = f"{flag}={find_recipe(value)}"
        elif index + 1 < len(found):
            found[index + 1] = str(find_recipe(found[index + 1]))
    return found


def protocols_of(published: Published | None) -> list[str]:
    """The protocols that the claims name, in order; `1crop` where there are no claims."""
    names = [claim.protocol for claim in published.claims] if published else []
    check_protocols(names)
    return list(dict.fromkeys(names)) or ["1crop"]


def fit(arguments: list[str]) -> int:
    """Train a recipe with a seed, evaluate it, write its result; go on where it stopped, skip it when finished."""
    started = time.perf_counter()
    cli = SuiteCLI("fit", arguments)
    protocols = protocols_of(cli.recipe.published)
    run = cli.run
    if run.result.exists() and not cli.config.again:
        done = describe(results.read_result(run.result))
        print(f"finished: {done}. Files: {run.folder}. --again trains it anew.")
        return 0
    with run.locked() if is_first_process() else nullcontext():
        if cli.config.again and is_first_process():
            run.set_aside()
        run.make()
        with logged(run.log):
            train(cli, protocols, started)
    return 0


def train(cli: SuiteCLI, protocols: list[str], started: float) -> None:
    """Train from the run's checkpoint, or from the start; evaluate; write the result."""
    run = cli.run
    cli.build(cli.callbacks())
    check_size(cli)
    if cli.trainer.is_global_zero:
        run.resolved_recipe.write_text(cli.recipe_text(), encoding="utf-8")
        loader, why = cli.datamodule.chosen_loader
        log.info("%s: loader %s (%s), %s", run.folder, loader, why, "resumed" if run.checkpoint.exists() else "new")
    resumed = str(run.checkpoint) if run.checkpoint.exists() else None
    with quiet_warnings():
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=resumed, weights_only=True)
    training = {name: round(float(value), 6) for name, value in cli.trainer.callback_metrics.items()}
    training |= {"epochs": cli.trainer.current_epoch, "steps": cli.trainer.global_step}
    before = time.perf_counter()
    errors = evaluate(cli, protocols)
    if not cli.trainer.is_global_zero:
        return
    evaluation = time.perf_counter() - before + cli.throughput.evaluation_seconds
    total = time.perf_counter() - started
    seconds = {"total": total, "train": cli.throughput.train_seconds, "evaluation": evaluation}
    seconds |= {"data_wait": cli.throughput.wait_seconds, "setup": total - evaluation - cli.throughput.train_seconds}
    result = summarise(cli, errors, training, cli.throughput.summary(), seconds)
    results.write_result(run.result, result)
    print(f"done: {describe(result)} in {total:.0f} s. Files: {run.folder}")


def check_size(cli: SuiteCLI) -> None:
    """The network must have the parameters its recipe says, unless an override changes the network.

    Raises:
        RecipeError: it has another number.
    """
    found, stated = count_parameters(cli.model), cli.recipe.published.parameters
    if found != stated and not any(key.startswith(("model.", "data.")) for key in cli.overrides):
        raise RecipeError(
            f"published.parameters (={stated}) of {cli.recipe.path} is not what the network has, {found}: "
            "correct the network or the number."
        )


def count_parameters(network: torch.nn.Module) -> int:
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def evaluate(cli: SuiteCLI, protocols: list[str]) -> dict[str, dict[str, float]]:
    """Errors of the network as it is, on every test image, under each protocol."""
    expected = cli.datamodule.manifest("test").count
    errors = {}
    for protocol in protocols:
        evaluation = Evaluation(cli.model, protocol, expected)
        with quiet_warnings():
            cli.trainer.test(evaluation, datamodule=cli.datamodule, verbose=False)
        errors[protocol] = evaluation.errors
    return errors


def summarise(
    cli: SuiteCLI,
    errors: dict[str, dict[str, float]],
    training: dict[str, float],
    throughput: dict[str, Any],
    seconds: dict[str, float],
) -> results.Result:
    """The result of a finished run."""
    loader, _ = cli.datamodule.chosen_loader
    return results.Result(
        schema=results.SCHEMA,
        recipe=cli.recipe.name,
        identity=identity(cli.settings),
        overrides=cli.overrides,
        seed=cli.seed,
        errors=errors,
        training=training,
        parameters=count_parameters(cli.model),
        published=asdict(cli.recipe.published),
        settings=cli.settings,
        resolved={key: value for key, value in cli.resolved.items() if key not in PRIVATE},
        dataset={"name": cli.datamodule.name, "loader": loader}
        | {s: dataset_record(cli, s) for s in ("train", "test")},
        throughput=throughput,
        seconds={name: round(value, 3) for name, value in seconds.items()},
        hardware=hardware(cli.trainer),
        versions=results.versions(),
        commit=results.commit(),
        finished=results.now(),
        wandb_id=next((str(lg.version) for lg in cli.trainer.loggers if type(lg).__name__ == "WandbLogger"), None),
    )


PRIVATE = frozenset(["data.init_args.root", "data.init_args.cache", "trainer.default_root_dir"])  # paths of a machine


def dataset_record(cli: SuiteCLI, split: Any) -> dict[str, Any]:
    """What identifies the images of `split`, without the 1 000 names of its classes."""
    manifest = cli.datamodule.manifest(split)
    record = {"count": manifest.count, "classes": len(manifest.classes), "content": manifest.content}
    return record | {"sources": manifest.sources}


def hardware(trainer: pl.Trainer) -> dict[str, Any]:
    """What the run ran on."""
    device = trainer.strategy.root_device
    found = {
        "device": device.type,
        "name": torch.cuda.get_device_name(device) if device.type == "cuda" else results.processor(),
        "devices": trainer.world_size,
        "nodes": trainer.num_nodes,
        "cores": results.cores(),
        "threads": torch.get_num_threads(),
    }
    return found


def describe(result: results.Result) -> str:
    """`mnist/lenet5 seed 0: 0.93 % (1crop)`."""
    errors = ", ".join(f"{found['top1_error']:.2f} % ({protocol})" for protocol, found in result.errors.items())
    return f"{result.recipe} seed {result.seed}: {errors}"


def validate(arguments: list[str]) -> int:
    """Evaluate a checkpoint on the validation images: those held out, or the test images where none are."""
    cli = SuiteCLI("validate", arguments)
    load_weights(cli)
    with quiet_warnings():
        found = cli.trainer.validate(cli.model, datamodule=cli.datamodule, verbose=False)[0]
    print("  ".join(f"{name} {value:.4f}" for name, value in found.items()))
    return 0


def test(arguments: list[str]) -> int:
    """Evaluate a checkpoint on the test images under each protocol the claims name."""
    cli = SuiteCLI("test", arguments)
    protocols = protocols_of(cli.recipe.published)
    load_weights(cli)
    for protocol, found in evaluate(cli, protocols).items():
        print(
            f"{protocol}: top-1 error {found['top1_error']:.2f} %, top-5 error {found['top5_error']:.2f} % "
            f"({found['wrong1']} of {found['count']} wrong)"
        )
    return 0


def load_weights(cli: SuiteCLI) -> None:
    """Build everything and load the weights of `--ckpt_path`, or of the run that the recipe and the seed name.

    Raises:
        RunError: there is no checkpoint, or it belongs to another network.
    """
    path = Path(cli.config.ckpt_path) if cli.config.ckpt_path else cli.run.checkpoint
    if not path.is_file():
        raise RunError(
            f"there is no checkpoint {path}: train it first with `python -m benchmarks fit`, or give --ckpt_path."
        )
    cli.build([])
    try:
        cli.model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])
    except (RuntimeError, KeyError) as error:
        raise RunError(f"{path} does not fit the network of {cli.recipe.name}: {str(error).strip()}") from None


def is_first_process() -> bool:
    """Whether this process is rank 0, before any process group exists."""
    return all(int(os.environ.get(name) or 0) == 0 for name in ("SLURM_PROCID", "RANK", "LOCAL_RANK"))


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Add what the suite and Lightning log to the file at `path`, with times."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    loggers = [log, logging.getLogger("pytorch_lightning"), logging.getLogger("py.warnings")]
    for logger in loggers:
        logger.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    except BaseException:
        log.exception("stopped")
        raise
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()


@contextmanager
def quiet_warnings() -> Iterator[None]:
    """Without Lightning's advice that does not fit this suite."""
    with warnings.catch_warnings():
        # Lightning asks torch in a way that torch 2.15 deprecates.
        warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
        # The loaders decode in threads or index arrays; more DataLoader workers would not help.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # Small datasets have few steps an epoch; nothing is logged per step.
        warnings.filterwarnings("ignore", message=".*The number of training batches.*")
        # A resumed run finds its own checkpoint there.
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        # The evaluation of the last epoch has no training loop of its own.
        warnings.filterwarnings("ignore", message=".*no `val_dataloader` .*")
        yield


def main(command: str, arguments: list[str]) -> int:
    """Run `fit`, `validate` or `test` with the arguments that follow it."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    return {"fit": fit, "validate": validate, "test": test}[command](arguments)
