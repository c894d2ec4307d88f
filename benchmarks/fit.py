"""`fit`, `validate` and `test`: a recipe and a seed, trained, evaluated and recorded in a run folder."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from benchmarks import results, signals
from benchmarks.callbacks import TrainingDivergedError
from benchmarks.checkpoints import newest, previous
from benchmarks.lean import keep_freed_memory
from benchmarks.lease import Lease
from benchmarks.lifecycle import without_signals
from benchmarks.mistakes import Mistakes
from benchmarks.notes import note
from benchmarks.protocols import Evaluation, MeanScores, check_evaluation, check_protocols, find_protocol, parts_of
from benchmarks.published import Published
from benchmarks.recipe import RecipeError, identity
from benchmarks.runs import Run, RunError
from benchmarks.suite_cli import SuiteCLI, quiet_warnings
from benchmarks.tables import read_rows
from benchmarks.throughput import summary
from benchmarks.wandb_mode import Decision, asked_for, decide
from benchmarks.wandb_run import Status, WandbRun, images_of, in_short, note_start, place, read_record
from datamodules.files import write_whole

log = logging.getLogger("benchmarks")


def main(command: str, arguments: list[str]) -> int:
    """Run `fit`, `validate` or `test` with the arguments that follow it."""
    return {"fit": fit, "validate": validate, "test": test}[command](arguments)


def fit(arguments: list[str]) -> int:
    """Train a recipe with a seed, evaluate it, write its result; go on where it stopped, skip it when finished.

    Raises:
        RunStopped: a signal asked it to stop, and it can be gone on with.
    """
    started = time.perf_counter()
    keep_freed_memory()
    with signals.listening():
        cli = SuiteCLI("fit", arguments)
        protocols = protocols_of(cli.recipe.published)
        note("folder", cli.run.folder.resolve())
        if not cli.config.again and is_finished(cli.run, protocols):
            return 0
        check_options(cli)
        with taken(cli.run, cli.config.wait) as lease:
            if not cli.config.again and is_finished(cli.run, protocols):  # by a process that was waited for
                return 0
            if cli.config.again and is_first_process():
                cli.run.set_aside()
            cli.run.make()
            with told_to_wandb(cli), recorded(cli.run), divergence_recorded(cli.run):
                train(cli, protocols, started, lease)
    return 0


def is_finished(run: Run, protocols: list[str]) -> bool:
    """Whether there is a result under every protocol; says so."""
    if not run.result.exists():
        return False
    result = results.read_result(run.result)
    if not set(protocols) <= set(result.errors):
        return False
    if is_first_process():
        print(f"finished: {describe(result)}. Files: {run.folder}. --again trains it anew.")
    return True


@contextmanager
def taken(run: Run, wait: bool) -> Iterator[Lease | None]:
    """The run's lock, which the first process holds for all ranks; the others wait until it does.

    Raises:
        RunBusyError: another process is training this run, and `wait` is false.
    """
    if is_first_process():
        with run.locked(wait) as lease:
            yield lease
    else:
        run.wait_for_first_rank(wait)
        yield None


@contextmanager
def recorded(run: Run) -> Iterator[None]:
    """Keep log.txt and state.json; other ranks than the first leave quietly where the run stops.

    With status 0, for whoever started them ends all ranks at once when one fails, the first before it has finished.
    """
    if not is_first_process():
        try:
            yield
        except signals.RunStopped:
            raise SystemExit(0) from None
        return
    run.write_state("running")
    with logged(run.log):
        try:
            yield
        except signals.RunStopped as stopped:
            run.write_state("stopped", signal=stopped.signal)
            step = run.read_state()["step"]
            log.info("stopped by %s; goes on after step %d", stopped.signal, step)
            print(f"stopped by {stopped.signal}; the same command goes on after step {step}.", file=sys.stderr)
            raise
        except KeyboardInterrupt:
            run.write_state("stopped", signal="SIGINT")
            log.info("interrupted")
            raise
        except BaseException as error:
            run.write_state("failed", why=f"{type(error).__name__}: {error}")
            raise


@contextmanager
def divergence_recorded(run: Run) -> Iterator[None]:
    """Leave `diverged.json` in the run folder if training diverges, which `ablate` takes for an outcome."""
    if is_first_process():
        run.diverged.unlink(missing_ok=True)
    try:
        yield
    except TrainingDivergedError as error:
        if is_first_process():
            record = {"why": str(error), "commit": results.commit(), "finished": results.now()}
            write_whole(run.diverged, json.dumps(record, indent=1) + "\n")
        raise


POSITIVE = ("max_epochs", "accumulate_grad_batches", "limit_train_batches")


def check_options(cli: SuiteCLI) -> None:
    """Refuse options that cannot end in a result.

    Raises:
        RunError: naming the option and what to do.
    """
    trainer = cli.config.trainer
    if trainer.fast_dev_run or trainer.limit_test_batches is not None:
        raise RunError(
            "--trainer.fast_dev_run and --trainer.limit_test_batches cannot be given to fit: a result counts every "
            "test image. For a short trial use --trainer.max_epochs 1."
        )
    if trainer.enable_checkpointing is False:
        raise RunError("--trainer.enable_checkpointing (=False) must be left out: a run goes on from its checkpoint.")
    for name in POSITIVE:
        value = trainer[name]
        unlimited = (name, value) == ("max_epochs", -1) and trainer.max_steps > 0
        if value is not None and value <= 0 and not unlimited:
            raise RunError(f"--trainer.{name} (={value}) must be above 0: leave it out for the recipe's.")
    if (trainer.gradient_clip_val or 0) < 0:
        raise RunError(
            f"--trainer.gradient_clip_val (={trainer.gradient_clip_val}) must not be negative: leave it out for none."
        )
    if trainer.max_steps == 0:
        raise RunError("--trainer.max_steps (=0) must be at least 1, or -1 for no limit: leave it out.")
    if trainer.barebones:
        raise RunError("--trainer.barebones (=True) must be left out: a run without checkpoints has no result.")
    if cli.config.again and int(os.environ.get("SLURM_NTASKS") or 1) > 1:
        raise RunError(f"--again cannot be given to several tasks at once: move {cli.run.folder} away by hand first.")
    asked_for(cli.config.wandb)


def train(cli: SuiteCLI, protocols: list[str], started: float, lease: Lease | None) -> None:
    """Train from the run's checkpoint, or from the start; evaluate; write the result."""
    run = cli.run
    code = results.commit()
    signals.stop_at_once()
    if is_first_process():
        run.remove_leftovers()
    cli.resume_from = newest(run.checkpoint, say if is_first_process() else log.info)
    if cli.resume_from:
        check_checkpoint(cli.resume_from, parts=RESUMED)
    cli.build(cli.callbacks(lease))
    without_signals(cli.trainer)
    check_size(cli)
    check_evaluation(protocols, cli.model, cli.datamodule)
    if cli.trainer.is_global_zero:
        run.resolved_recipe.write_text(cli.recipe_text(), encoding="utf-8")
        loader, why = cli.datamodule.chosen_loader
        log.info("%s: loader %s (%s), %s", run.folder, loader, why, "resumed" if cli.resume_from else "new")
    if cli.trainer.is_global_zero and cli.mirror:
        cli.mirror.wandb = begin(run, known_facts(cli, code), decision_for(cli))
    with quiet_warnings(), stoppable(cli.trainer):
        checkpoint = str(cli.resume_from) if cli.resume_from else None
        try:
            cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, weights_only=True)
        except ValueError as error:
            if "val_check_interval" not in str(error):
                raise
            raise RunError(f"--trainer.val_check_interval: {str(error).strip()}") from None  # longer than an epoch
    before = time.perf_counter()
    mistakes = Mistakes(cli.model.num_classes) if cli.config.pictures else None
    errors = evaluate(cli, protocols, mistakes)
    if cli.trainer.is_global_zero:
        now = time.perf_counter()
        result = summarise(cli, errors, whole_table(cli), code, total=now - started, evaluation=now - before)
        results.write_result(run.result, result)
        previous(run.checkpoint).unlink(missing_ok=True)
        run.write_state("finished", step=cli.trainer.global_step, epoch=cli.trainer.current_epoch)
        print(f"done: {describe(result)} in {result.seconds['total']:.0f} s. Files: {run.folder}")
        if mistakes:
            picture(cli, mistakes, parts_of(protocols[0])[0])


def whole_table(cli: SuiteCLI) -> list[dict[str, str]]:
    """The rows of metrics.csv.

    Raises:
        RunError: it lacks epochs, and the checkpoint is one of those that did not hold them.
    """
    rows = read_rows(cli.run.metrics)
    if len(rows) < cli.trainer.current_epoch or not rows:
        raise RunError(
            f"{cli.run.metrics} has {len(rows)} rows, the run {cli.trainer.current_epoch} epochs, and the checkpoint "
            "holds no rows: restore the file, or train anew with --again."
        )
    return rows


def picture(cli: SuiteCLI, mistakes: Mistakes, protocol: str) -> None:
    """Draw the finished run. What goes wrong is logged, and so is a signal: the run is finished all the same."""
    try:
        from benchmarks import pictures  # matplotlib takes half a second to import

        data = cli.datamodule
        pictures.draw(
            cli.run.figures,
            f"{cli.recipe.name} seed {cli.seed}, {protocol}",
            cli.model,
            mistakes,
            data.manifest("test").classes,
            lambda image: pictures.to_pixels(image, data.mean, data.std),
            channels=len(data.std),
            ranks=cli.trainer.world_size,
        )
    except (Exception, signals.RunStopped) as error:
        log.warning("the run was not drawn: %s: %s", type(error).__name__, error)


@contextmanager
def told_to_wandb(cli: SuiteCLI) -> Iterator[None]:
    """Tell W&B, if it has the run, how it ended, when the run's own files say so already."""
    status: Status = "failed"
    try:
        yield
        status = "finished"
    except TrainingDivergedError:
        status = "diverged"
        raise
    except (signals.RunStopped, KeyboardInterrupt, SystemExit):
        status = "stopped"
        raise
    finally:
        if cli.mirror and is_first_process():  # no other may read a result that this one has yet to write
            end(cli.mirror.wandb, status, results.read_result(cli.run.result) if status == "finished" else None)


def end(wandb: WandbRun, status: Status, result: results.Result | None) -> None:
    """Close the W&B run, and say so if anything went wrong with it."""
    wandb.log_images(images_of(wandb.run) if result else {}, wandb.last)
    wandb.finish(status, result, confirm=result is not None)
    if wandb.fault:
        say(f"W&B {wandb.fault}: the run's files have it all, and `python -m benchmarks sync` sends it.")


def decision_for(cli: SuiteCLI) -> Decision:
    """What the run does about W&B; nothing where Lightning's own logger was asked for, for there can be only one."""
    if any(type(logger).__name__ == "WandbLogger" for logger in cli.trainer.loggers):
        return Decision("disabled", "--trainer.logger WandbLogger was given instead", loud=True)
    return decide(cli.config.wandb)


def begin(run: Run, facts: dict[str, Any], decision: Decision) -> WandbRun:
    """Open the W&B run if that was decided, and say what becomes of the run at W&B."""
    try:
        wandb = WandbRun(run, note_start(run, decision.mode, facts))
    except Exception as error:  # a full disk, a file that was edited by hand: no reason to end a run
        say(f"W&B: gets nothing of this run, {run.wandb} cannot be kept ({in_short(error)})")
        return WandbRun(run)
    if decision.mode == "online":
        wandb.open()
    if wandb.client is not None:
        say(f"W&B: {wandb.record['url']}")
    elif decision.mode != "online":
        later = "; `python -m benchmarks sync` can send it later" if decision.mode == "offline" else ""
        say(f"W&B: {decision.mode}, {decision.why}{later}", loud=decision.loud)
    return wandb


def say(text: str, loud: bool = True) -> None:
    """To the log, and aloud."""
    log.info(text)
    if loud:
        print(text, flush=True)


def protocols_of(published: Published | None) -> list[str]:
    """The protocols that the claims name, in order; `1crop` where there are no claims."""
    names = [claim.protocol for claim in published.claims] if published else []
    check_protocols(names)
    return list(dict.fromkeys(names)) or ["1crop"]


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


def evaluate(cli: SuiteCLI, protocols: list[str], mistakes: Mistakes | None = None) -> dict[str, dict[str, float]]:
    """Errors of the network as it is, on every test image, under each protocol; `mistakes` notes the first view's."""
    means = {name: MeanScores(len(parts_of(name))) for name in protocols if len(parts_of(name)) > 1}
    errors: dict[str, dict[str, float]] = {}
    for part in dict.fromkeys(part for name in protocols for part in parts_of(name)):
        adds = [mean for name, mean in means.items() if part in parts_of(name)]
        errors[part] = evaluate_once(cli, part, adds, mistakes if not errors else None)
    return {name: means[name].errors if name in means else errors[name] for name in protocols}


def evaluate_once(
    cli: SuiteCLI, protocol: str, means: Sequence[MeanScores] = (), mistakes: Mistakes | None = None
) -> dict[str, float]:
    """Errors under a protocol of one view, whose softmaxes are added to `means`, and whose mistakes are noted."""
    evaluation = Evaluation(cli.model, protocol, cli.datamodule.eval_size, means=means, mistakes=mistakes)
    view = cli.datamodule.viewed_as(find_protocol(protocol).view)
    with view, quiet_warnings(), stoppable(cli.trainer):
        cli.trainer.test(evaluation, datamodule=cli.datamodule, verbose=False)
    return evaluation.errors


def summarise(
    cli: SuiteCLI,
    errors: dict[str, dict[str, float]],
    rows: list[dict[str, str]],
    code: dict[str, Any],
    total: float,
    evaluation: float,
) -> results.Result:
    """The result of a finished run, from `rows` of its metrics.csv, which hold the epochs of all its processes.

    `code` is the commit when the process started; it counts as clean only if nothing has changed since.
    `total` and `evaluation` are seconds of this process; its own epochs are not told from those of processes before,
    so after a resume what is neither training nor evaluation is not known, and `setup` is left out.
    """
    spent = {name: sum(float(row[f"perf/{name}"]) for row in rows) for name in ("train", "data_wait", "validation")}
    seconds = {"train": spent["train"], "data_wait": spent["data_wait"], "evaluation": evaluation + spent["validation"]}
    if not cli.resume_from:
        seconds["setup"] = total - seconds["train"] - seconds["evaluation"]
    seconds["total"] = seconds["train"] + seconds["evaluation"] + seconds.get("setup", 0.0)
    last = {name: float(value) for name, value in rows[-1].items() if value and name.startswith(("train/", "val/"))}
    last = {name: value for name, value in last.items() if math.isfinite(value)}  # a loss may be inf, JSON has none
    training = last | {"epochs": int(rows[-1]["epoch"]) + 1, "steps": int(rows[-1]["step"])}
    loader, _ = cli.datamodule.chosen_loader
    return results.Result(
        schema=results.SCHEMA,
        **known_facts(cli, {"id": code["id"], "clean": code["clean"] and results.commit() == code}),
        errors=errors,
        training=training,
        dataset={"name": cli.datamodule.name, "loader": loader}
        | {s: dataset_record(cli, s) for s in ("train", "test")},
        throughput=summary([float(row["perf/images_per_s"]) for row in rows]),
        seconds={name: round(value, 3) for name, value in seconds.items()},
        finished=results.now(),
        wandb_id=place(read_record(cli.run)) or None,
    )


def known_facts(cli: SuiteCLI, code: dict[str, Any]) -> dict[str, Any]:
    """Those parts of a result that are known before training; `code` is the commit."""
    return {
        "recipe": cli.recipe.name,
        "identity": identity(cli.settings),
        "overrides": cli.overrides,
        "seed": cli.seed,
        "parameters": count_parameters(cli.model),
        "published": asdict(cli.recipe.published),
        "settings": cli.settings,
        "resolved": {key: value for key, value in cli.resolved.items() if key not in PRIVATE},
        "hardware": hardware(cli.trainer),
        "versions": results.versions(),
        "commit": code,
    }


PRIVATE = frozenset(["data.init_args.root", "data.init_args.cache", "trainer.default_root_dir"])  # paths of a machine


def dataset_record(cli: SuiteCLI, split: Any) -> dict[str, Any]:
    """What identifies the images of `split`, without the 1 000 names of its classes."""
    manifest = cli.datamodule.manifest(split)
    record = {"count": manifest.count, "classes": len(manifest.classes), "content": manifest.content}
    if manifest.skipped:
        record["skipped"] = manifest.skipped  # images that cannot be decoded: another test set is another result
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
    without_signals(cli.trainer)  # they end what only evaluates; Lightning would note them and go on
    with quiet_warnings(), stoppable(cli.trainer):
        found = cli.trainer.validate(cli.model, datamodule=cli.datamodule, verbose=False)[0]
    print("  ".join(f"{name} {value:.4f}" for name, value in found.items()))
    return 0


def test(arguments: list[str]) -> int:
    """Evaluate a checkpoint on the test images under each protocol the claims name."""
    cli = SuiteCLI("test", arguments)
    protocols = protocols_of(cli.recipe.published)
    load_weights(cli)
    without_signals(cli.trainer)
    check_evaluation(protocols, cli.model, cli.datamodule)
    for protocol, found in evaluate(cli, protocols).items():
        print(
            f"{protocol}: top-1 error {found['top1_error']:.2f} %, top-5 error {found['top5_error']:.2f} % "
            f"({found['wrong1']} of {found['count']} wrong)"
        )
    return 0


def load_weights(cli: SuiteCLI) -> None:
    """Build everything and load the weights of `--ckpt_path`, or those given, or of the run of the recipe and the seed.

    Weights given on the command line (`--model.weights`) are evaluated as they are, also where a run has started from
    them and has a checkpoint of its own, which `--ckpt_path` can name.

    Raises:
        RunError: there is no checkpoint, or it belongs to another network.
    """
    if {"--model.weights", "--model.init_args.weights"} & cli.flags and not cli.config.ckpt_path:
        cli.build([])  # loads them
        print(f"weights: {cli.model.weights}")
        if cli.run.checkpoint.exists():
            print(f"not those of the run that started from them: --ckpt_path {cli.run.checkpoint}")
        return
    path = Path(cli.config.ckpt_path) if cli.config.ckpt_path else cli.run.checkpoint
    if not path.is_file():
        raise RunError(
            f"there is no checkpoint {path}: train it first with `python -m benchmarks fit`, or give --ckpt_path."
        )
    remedy = "name another with --ckpt_path" if cli.config.ckpt_path else "remove it to train from the start"
    check_checkpoint(path, remedy)
    cli.build([])
    try:
        cli.model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])
    except RuntimeError as error:
        raise RunError(
            f"{path} does not fit the network of {cli.recipe.name} ({str(error).strip()}): {remedy}, or change the "
            "network's settings to those of the checkpoint."
        ) from None


RESUMED = ("state_dict", "loops", "optimizer_states", "lr_schedulers", "pytorch-lightning_version")


def check_checkpoint(
    path: Path, remedy: str = "remove it to train from the start", parts: Sequence[str] = ("state_dict",)
) -> None:
    """Refuse a checkpoint that is not whole, or is none of this suite, with these `parts`.

    Raises:
        RunError: naming it and the remedy.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever torch and pickle make of it; their texts advise on pickles and file formats
        raise RunError(f"{path} is not a whole checkpoint ({type(error).__name__}): {remedy}.") from None
    whole = isinstance(content, dict) and isinstance(content.get("state_dict"), dict)
    if not whole or any(part not in content for part in parts):
        raise RunError(f"{path} is no checkpoint of this suite: weights of others are given as --model.weights {path}.")


@contextmanager
def stoppable(trainer: pl.Trainer) -> Iterator[None]:
    """Lightning leaves by SystemExit when it is stopped, after SIGTERM even with status 0: say what it was.

    Raises:
        KeyboardInterrupt: for Ctrl-C.
        RunStopped: the run stopped for a signal, and can be gone on with.
        SystemExit: with 143 for SIGTERM, as a shell reports it.
    """
    try:
        yield
    except signals.RunStopped:
        raise
    except SystemExit as leaving:
        if trainer.received_sigterm:
            raise SystemExit(143) from None
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise leaving


def is_first_process() -> bool:
    """Whether this process is rank 0, before any process group exists."""
    return all(int(os.environ.get(name) or 0) == 0 for name in ("SLURM_PROCID", "RANK", "NODE_RANK", "LOCAL_RANK"))


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Add what the suite and Lightning log to the file at `path`, with times."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    loggers = [log, logging.getLogger("pytorch_lightning")]
    for logger in loggers:
        logger.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    except Exception:
        log.exception("failed")
        raise
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()
