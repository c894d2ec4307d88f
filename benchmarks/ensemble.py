"""`python -m benchmarks ensemble RECIPE`: the networks of an ensemble, evaluated one after the other and averaged.

Its recipe lists the members (`benchmarks.recipe`), each a finished run or a file of weights. Of each the softmaxes are
averaged under the protocols its claims name (`benchmarks.protocols`), and the result is one as of any other recipe. One
network is in memory at a time, and the sum of the softmaxes: 8 bytes x images x classes over all devices.

Every member sees the images as its own recipe says: its image size, its mean, its precision. What they must share are
the images and their classes.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import fit, results, signals
from benchmarks.errors import explain
from benchmarks.lifecycle import without_signals
from benchmarks.protocols import MeanScores, check_evaluation, check_protocols, parts_of
from benchmarks.recipe import Member, Recipe, RecipeError, find_recipe, identity, load_recipe
from benchmarks.runs import Run, RunError, runs_root
from benchmarks.suite_cli import SuiteCLI


@dataclass(frozen=True)
class Candidate:
    """A member whose settings were found sound.

    Args:
        member: with the seed of this repetition, and the identity that the settings of the command line give it.
        cli: what evaluates it.
        arguments: of `fit` or `test` for it.
    """

    member: Member
    cli: SuiteCLI
    arguments: list[str]

    def fault(self) -> str | None:
        """What is to be done before it can be evaluated; None if nothing."""
        run = self.cli.run
        if self.member.weights is not None:
            missing = not Path(self.member.weights).is_file()
            return f"put the weights of {self.member.recipe} at {self.member.weights}" if missing else None
        if run.result.is_file() and run.checkpoint.is_file():
            return None
        again = ["--again"] if run.result.is_file() else []  # its checkpoint was removed
        return shlex.join(["python", "-m", "benchmarks", "fit", *self.arguments, *again])

    def finished(self) -> str | None:
        """When its run was finished; None for weights from a file."""
        return results.read_result(self.cli.run.result).finished if self.member.weights is None else None

    def overrides(self) -> dict[str, Any]:
        """Settings in which it differs from its recipe, other than the weights that the ensemble gives it."""
        given = "model.init_args.weights" if self.member.weights is not None else None
        return {key: value for key, value in self.cli.overrides.items() if key != given}

    def protocols(self, name: str) -> tuple[str, ...]:
        """Under what it is evaluated for the ensemble's protocol `name`."""
        return parts_of(name) or parts_of(self.member.protocol or "")


def ensemble(options: argparse.Namespace) -> int:
    """`python -m benchmarks ensemble`: check every member, evaluate them, write the result; skip what is finished.

    Raises:
        RunStopped: a signal asked it to stop. Nothing is written then, and the same command begins again.
    """
    with signals.listening():
        try:
            signals.stop_at_once()  # there is nothing to save
            return evaluate_members(options)
        except signals.RunStopped as stopped:
            if fit.is_first_process():
                print(
                    f"stopped by {stopped.signal}: no result is written, the same command begins again.",
                    file=sys.stderr,
                )
            raise


def evaluate_members(options: argparse.Namespace) -> int:
    """Do it, where signals are listened to."""
    started = time.perf_counter()
    code = results.commit()
    recipe = load_recipe(find_recipe(options.recipe))
    protocols = check_claims(recipe)
    candidates = parse_members(recipe, options)
    check_finished(recipe, candidates)
    pairs = zip(recipe.members, candidates, strict=True)
    settings = {"members": [member.settings() | {"identity": found.member.identity} for member, found in pairs]}
    run = Run.of(runs_root(options.runs), recipe.name, identity(settings), options.repetition)
    if not options.again and (old := finished_result(run, protocols, candidates)) is not None:
        print(f"finished: {fit.describe(old)}. Files: {run.folder}. --again evaluates it anew.")
        return 0
    with run.locked() if fit.is_first_process() else nullcontext():
        run.make()
        with fit.logged(run.log) if fit.is_first_process() else nullcontext():
            evaluate(recipe, protocols, candidates, settings, run, code, started)
    return 0


def check_claims(recipe: Recipe) -> list[str]:
    """The protocols that the claims name, in order; one crop of each member where there are no claims.

    Raises:
        RecipeError: this is no ensemble, or a claim's protocol is none of an ensemble of so many members.
    """
    count = len(recipe.members)
    if not count:
        raise RecipeError(
            f"{recipe.name} has no `members`, it trains one network: "
            f"`python -m benchmarks test --config {recipe.name} --seed_everything 0` evaluates that."
        )
    own = recipe.members[0].protocol is not None
    default = f"ens-{count}" if own else f"ens-{count}-1crop"
    protocols = list(dict.fromkeys(claim.protocol for claim in recipe.published.claims)) or [default]
    check_protocols(protocols, count)
    check_protocols([member.protocol for member in recipe.members if member.protocol is not None])
    for name in protocols:
        if own == bool(parts_of(name)):
            remedy = f"use ens-{count}, or leave the members' out" if own else "add protocol: to each member, or a base"
            raise RecipeError(
                f"{recipe.path}: members must have a protocol of their own where a claim's (={name}) names none, and "
                f"only there: {remedy}."
            )
    return protocols


def parse_members(recipe: Recipe, options: argparse.Namespace) -> list[Candidate]:
    """Every member, parsed with the settings of the command line.

    Raises:
        RecipeError: an unknown option, or a member that does not take the settings.
    """
    for word in options.settings:
        if word.startswith("-") and not word.startswith(("--trainer.", "--data.", "--model.")):
            raise RecipeError(
                f"{word} is no option of ensemble, and no setting such as --data.loader torch: "
                "`python -m benchmarks ensemble --help` lists the options."
            )
    if options.repetition and all(member.weights is not None for member in recipe.members):
        raise RecipeError(
            f"--repetition (={options.repetition}) needs members with seeds, {recipe.name} has weights from files "
            "only: leave it out."
        )
    return [parse_member(member, recipe, options) for member in recipe.members]


def parse_member(member: Member, recipe: Recipe, options: argparse.Namespace) -> Candidate:
    """The member of this repetition, whose seeds lie beyond all those of the repetition before."""
    own = ["--config", member.recipe if not member.recipe.startswith("custom/") else str(member.path)]
    if member.seed is not None:
        step = 1 + max(other.seed for other in recipe.members if other.seed is not None)
        member = replace(member, seed=member.seed + options.repetition * step)
    own += ["--seed_everything", str(member.seed or 0)]
    own += ["--model.weights", member.weights] if member.weights is not None else []
    own += ["--runs", options.runs] if options.runs else []
    arguments = [*own, *options.settings]
    try:
        cli = SuiteCLI("test", arguments)
        return Candidate(replace(member, identity=identity(cli.settings)), cli, arguments)
    except Exception as error:
        message, _ = explain(error)
        if message is None:
            raise
        raise RecipeError(f"member {member}: {message}") from error


def check_finished(recipe: Recipe, candidates: list[Candidate]) -> None:
    """Every member must have been trained.

    Raises:
        RunError: some are not; the message has the command for each.
    """
    faults = [fault for candidate in candidates if (fault := candidate.fault()) is not None]
    if faults:
        raise RunError(
            f"{recipe.name} needs {len(candidates)} finished members, {len(faults)} are not:\n  "
            + "\n  ".join(faults)
            + "\nGive this command again when that is done."
        )
    for candidate in candidates:
        if candidate.member.weights is None:
            fit.check_checkpoint(candidate.cli.run.checkpoint)


def finished_result(run: Run, protocols: list[str], candidates: list[Candidate]) -> results.Result | None:
    """The result there is, if it has every protocol and no member was trained anew since."""
    if not run.result.is_file():
        return None
    old = results.read_result(run.result)
    same = [member.get("finished") for member in old.members] == [candidate.finished() for candidate in candidates]
    return old if same and set(protocols) <= set(old.errors) else None


def evaluate(
    recipe: Recipe,
    protocols: list[str],
    candidates: list[Candidate],
    settings: dict[str, Any],
    run: Run,
    code: dict[str, Any],
    started: float,
) -> None:
    """Evaluate every member once under each protocol it needs, average, write the result."""
    parameters = check_fit(recipe, protocols, candidates)
    before = time.perf_counter()
    means = {name: MeanScores(sum(len(c.protocols(name)) for c in candidates)) for name in protocols}
    records = []
    for candidate in candidates:
        cli, errors = candidate.cli, {}
        fit.load_weights(cli)
        without_signals(cli.trainer)
        for part in parts_needed(candidate, protocols):
            adds = [mean for name, mean in means.items() if part in candidate.protocols(name)]
            errors[part] = fit.evaluate_once(cli, part, adds)
        records.append(record(candidate, errors))
        loader, _ = cli.datamodule.chosen_loader
        dataset = {"name": cli.datamodule.name, "loader": loader, "test": fit.dataset_record(cli, "test")}
        hardware, is_first = fit.hardware(cli.trainer), cli.trainer.is_global_zero
        release(cli)
    if not is_first:
        return
    now = time.perf_counter()
    result = results.Result(
        schema=results.SCHEMA,
        recipe=recipe.name,
        identity=run.folder.parent.name,
        overrides={key: value for candidate in candidates for key, value in candidate.overrides().items()},
        seed=int(run.folder.name.removeprefix("seed-")),
        errors={name: mean.errors for name, mean in means.items()},
        training={},
        parameters=parameters,
        published=asdict(recipe.published),
        settings=settings,
        resolved={"members": [without_paths(candidate.cli.resolved) for candidate in candidates]},
        dataset=dataset,
        throughput={},
        seconds={
            "evaluation": round(now - before, 3),
            "setup": round(before - started, 3),
            "total": round(now - started, 3),
        },
        hardware=hardware,
        versions=results.versions(),
        commit={"id": code["id"], "clean": code["clean"] and results.commit() == code},
        finished=results.now(),
        members=records,
    )
    results.write_result(run.result, result)
    for member in records:
        print(f"member {describe(member)}")
    print(f"done: {fit.describe(result)} in {result.seconds['total']:.0f} s. Files: {run.folder}")


def parts_needed(candidate: Candidate, protocols: list[str]) -> list[str]:
    """The protocols of one view under which a member is evaluated, each once."""
    return list(dict.fromkeys(part for name in protocols for part in candidate.protocols(name)))


def check_fit(recipe: Recipe, protocols: list[str], candidates: list[Candidate]) -> int:
    """Every kind of member is built and tried before the first is evaluated. Returns the parameters of all members.

    Raises:
        RecipeError: one cannot have a protocol, has other images or classes than the first, or the number of
            parameters is not the one published.
    """
    parameters: dict[str, int] = {}
    images: dict[str, Any] = {}
    for candidate in candidates:
        cli, member = candidate.cli, candidate.member
        if member.identity in parameters:
            continue
        cli.build([])
        check_evaluation(parts_needed(candidate, protocols), cli.model, cli.datamodule)
        data = cli.datamodule
        found = {"dataset": data.name, "classes": data.variant() or data.num_classes, "root": str(data.root_path())}
        images = images or found
        for name, value in found.items():
            if value != images[name]:
                raise RecipeError(
                    f"member {member} has another {name} (={value}) than {candidates[0].member} (={images[name]}): "
                    "members must classify the same images."
                )
        parameters[member.identity] = fit.count_parameters(cli.model)
        release(cli)
    total = sum(parameters[candidate.member.identity] for candidate in candidates)
    changed = any(key.startswith(("model.", "data.")) for candidate in candidates for key in candidate.overrides())
    if total != recipe.published.parameters and not changed:
        raise RecipeError(
            f"published.parameters (={recipe.published.parameters}) of {recipe.path} is not what the members have "
            f"together, {total}: correct the members or the number."
        )
    return total


def release(cli: SuiteCLI) -> None:
    """Let go of the network, the data and the trainer, so that the next member has the memory."""
    del cli.model, cli.datamodule, cli.trainer, cli.config_init


def record(candidate: Candidate, errors: dict[str, dict[str, float]]) -> dict[str, Any]:
    """What the result says of a member."""
    found = candidate.member.settings() | {"errors": errors, "finished": candidate.finished()}
    return found if candidate.member.weights is None else found | {"weights": Path(candidate.member.weights).name}


def describe(member: dict[str, Any]) -> str:
    """`mnist/lenet5 seed 0: 0.93 % (1crop)`."""
    which = f"seed {member['seed']}" if "seed" in member else f"with {member['weights']}"
    errors = ", ".join(f"{found['top1_error']:.2f} % ({protocol})" for protocol, found in member["errors"].items())
    return f"{member['recipe']} {which}: {errors}"


def without_paths(resolved: dict[str, Any]) -> dict[str, Any]:
    """Without the folders of this machine."""
    return {key: value for key, value in resolved.items() if key not in fit.PRIVATE}
