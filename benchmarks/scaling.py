"""What data-parallel training keeps of its speed on 1 to k ranks, strong and weak, and how much communication takes.

Strong: the recipe's batch is shared by the ranks. Weak: each rank has all of it, so that a step sees k times as many
images. One rank steps without DDP. Each rank has a process, a device (a GPU, or its share of the cores), the recipe's
network, precision and optimizer, and one batch that lies ready on the device: no loader, no loop of Lightning's.

The communication is the difference between the same steps with gradients averaged and within DDP's `no_sync`, which
sends nothing, neither gradients nor batch norm's buffers. What the backward pass hides is not in it; waiting for the
slowest rank is. All times are seconds on the wall, of the slowest rank: waiting takes no processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from contextlib import ExitStack, nullcontext
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from benchmarks.errors import explain
from benchmarks.results import as_command, commit, cores, now, processor, versions, without_folders
from benchmarks.runs import RunError
from benchmarks.scaling_model import (
    Computation,
    Network,
    buckets,
    efficiency,
    extrapolated,
    fitted,
    joined,
    predicted,
)
from benchmarks.step_peers import device_name
from benchmarks.step_throughput import Step, parsed
from benchmarks.suite_cli import SuiteCLI, quiet_warnings
from benchmarks.targets import check_target
from benchmarks.throughput import wait_for_device
from datamodules.files import write_whole

SCHEMA = 1
WARM_UP = 2  # steps of each turn
FURTHER = (8, 64, 1024)  # ranks on paper
OURS = ("devices", "num_nodes", "strategy", "accumulate_grad_batches")  # that --ranks stands for


def scaling(options: argparse.Namespace) -> int:
    """`python -m benchmarks scaling RECIPE`: measure, print tables, write what was asked for."""
    check_target("--json", options.json)
    recipe = parsed(options, options.recipe)
    config = SuiteCLI("fit", ["--config", options.recipe, "--seed_everything", "0", *options.settings]).config
    batch = int(config["data"].init_args.batch_size)
    modes = ["strong", "weak"] if options.mode == "both" else [options.mode]
    accelerator = str(config["trainer"]["accelerator"])
    gpus = torch.cuda.device_count() if accelerator in ("auto", "gpu", "cuda") else 0
    check_ranks(options, batch, modes, gpus)
    load = os.getloadavg()[0]
    points: list[dict[str, Any]]
    points = [{"ranks": k, "mode": mode, "images_per_rank": images} for k, mode, images in turns(options, batch, modes)]
    with Ranks(options, gpus) as group:
        about = group.ask(1, "about")[0]
        for number in range(options.rounds):
            for point in points if number % 2 == 0 else points[::-1]:
                for key, synchronised in (("seconds", True), ("seconds_without_communication", False)):
                    if synchronised or point["ranks"] > 1:
                        asked = ("turn", point["ranks"], point["images_per_rank"], synchronised)
                        point.setdefault(key, []).append(max(group.ask(point["ranks"], asked)) / options.steps)
            print(f"round {number + 1} of {options.rounds} is done", flush=True)
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "recipe": recipe.name,
        "settings": without_folders(options.settings),
        "batch_size": batch,
        "steps": options.steps,
        "clock": "wall seconds",
        "communication": "steps with gradients averaged, less those within DDP's no_sync",
        "points": points,
        "hardware": {
            "device": about["device"],
            "name": processor() if about["device"] == "cpu" else device_name(),
            "cores": cores(),
            "threads_per_rank": about["threads"],
            "load_before": load,
        },
        "backend": about["backend"],
        "gradient_bytes": about["gradient_bytes"],
        "bucket_cap_mb": options.bucket_cap_mb,
        "versions": versions(),
        "commit": commit(),
        "command": as_command(options.arguments),
        "finished": now(),
    }
    record["on_paper"] = on_paper(record, modes, network_of(options))
    print(as_text(record))
    if options.json:
        write_whole(Path(options.json), json.dumps(record, indent=1) + "\n")
    return 0


def check_ranks(options: argparse.Namespace, batch: int, modes: list[str], gpus: int) -> None:
    """Refuse numbers of ranks that cannot be measured.

    Raises:
        RunError: they are not distinct and increasing from 1, are more than there are devices, do not share the batch
            in whole images, or a setting names devices too.
    """
    for setting in options.settings:
        name = setting.split("=")[0].removeprefix("--trainer.").split(".")[0]
        if setting.startswith("--trainer.") and name in OURS:
            raise RunError(f"{setting.split('=')[0]} does nothing with scaling: the ranks are those of --ranks.")
    ranks, shown = options.ranks, ",".join(map(str, options.ranks))
    if ranks[0] != 1 or ranks != sorted(set(ranks)):
        raise RunError(
            f"--ranks (={shown}) must increase and begin with 1, which the others are compared with: use 1,2."
        )
    devices, what = (gpus, "GPUs") if gpus else (cores(), "cores")
    if ranks[-1] > devices:
        raise RunError(f"--ranks (={shown}) must be at most {devices}, the {what} here, one for each: use fewer.")
    for k in ranks if "strong" in modes else []:
        if batch % k:
            raise RunError(
                f"--ranks (={shown}) must each divide the batch of {batch} images that they share; {k} does not: use "
                f"others, --data.batch_size {batch // k * k or k}, or --mode weak."
            )


def turns(options: argparse.Namespace, batch: int, modes: list[str]) -> list[tuple[int, str, int]]:
    """Ranks, mode and images of each rank: one rank once, as both modes begin with it."""
    found = [(1, "one", batch)]
    for k in options.ranks[1:]:
        found += [(k, mode, batch // k if mode == "strong" else batch) for mode in modes]
    return found


def network_of(options: argparse.Namespace) -> Network:
    """What the command line assumes of the network."""
    return Network(
        bandwidth=options.bandwidth * 1e9,
        node_bandwidth=options.node_bandwidth * 1e9,
        node_size=options.node_size,
        latency=options.latency * 1e-6,
        overlap=options.overlap,
        collective=options.collective,
    )


class Ranks:
    """A process for each rank, which wait while others have their turn."""

    def __init__(self, options: argparse.Namespace, gpus: int) -> None:
        spawn = get_context("spawn")
        self.stack = ExitStack()
        meeting = self.stack.enter_context(TemporaryDirectory())
        threads = max(1, torch.get_num_threads() // options.ranks[-1])
        self.connections: list[Connection] = []
        self.processes = []
        for rank in range(options.ranks[-1]):
            ours, theirs = spawn.Pipe()
            plan = {
                "rank": rank, "ranks": options.ranks, "recipe": options.recipe, "settings": options.settings,
                "steps": options.steps, "meeting": f"file://{meeting}/store", "threads": threads, "gpu": bool(gpus),
                "bucket_cap_mb": options.bucket_cap_mb,
            }  # fmt: skip
            process = spawn.Process(target=serve, args=(plan, theirs), daemon=True)
            process.start()
            theirs.close()
            self.connections.append(ours)
            self.processes.append(process)

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, error: object, *rest: object) -> None:
        for connection in self.connections:
            connection.close()
        for process in self.processes:
            process.join(0 if error else 20)
            if process.is_alive():  # it may wait for a rank that has failed
                process.terminate()
                process.join()
        self.stack.close()

    def ask(self, ranks: int, message: Any) -> list[Any]:
        """The answers of the first so many ranks, in their order.

        Raises:
            RunError: one of them failed.
        """
        pending = dict(enumerate(self.connections[:ranks]))
        answers: dict[int, Any] = {}
        try:
            for connection in pending.values():
                connection.send(message)
            while pending:
                for ready in wait(list(pending.values())):
                    rank = next(rank for rank, connection in pending.items() if connection is ready)
                    answers[rank] = pending.pop(rank).recv()
                    if isinstance(answers[rank], RunError):
                        raise answers[rank]
        except (EOFError, ConnectionError):
            raise RunError("a rank failed: see above, and try the recipe with fit.") from None
        return [answers[rank] for rank in range(ranks)]


def serve(plan: dict[str, Any], connection: Connection) -> None:
    """One rank: answer messages until there are no more. A mistake of the user's is sent, others end the process."""
    torch.set_num_threads(plan["threads"])
    try:
        with TemporaryDirectory() as folder, quiet_warnings():
            rank = Rank(plan, folder)
        while message := connection.recv():
            connection.send(rank.about() if message == "about" else rank.turn(*message[1:]))
    except EOFError:
        pass
    except Exception as error:
        said, _ = explain(error)
        if said is None:
            raise
        connection.send(RunError(said))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


class Rank:
    """The networks of one rank: one for each number of ranks of which it is part."""

    def __init__(self, plan: dict[str, Any], folder: str) -> None:
        self.plan = plan
        number, last = plan["rank"], plan["ranks"][-1]
        placed = ["--trainer.devices", f"[{number}]" if plan["gpu"] else "1"]
        recipe = ["--config", plan["recipe"], "--seed_everything", "0", "--runs", folder]
        self.steps: dict[int, Step] = {}
        for k in plan["ranks"]:
            if number < k:
                cli = SuiteCLI("fit", [*recipe, *plan["settings"], *placed])
                cli.build([])
                self.steps[k] = Step(cli)
        self.device = next(iter(self.steps.values())).device
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        self.backend = "nccl" if self.device.type == "cuda" else "gloo"
        dist.init_process_group(self.backend, init_method=plan["meeting"], rank=number, world_size=last)
        groups = {k: dist.new_group(list(range(k))) for k in plan["ranks"] if k > 1}  # by every rank, in one order
        self.groups: dict[int, Any] = {k: group for k, group in groups.items() if k in self.steps}
        self.networks = {
            k: DistributedDataParallel(
                self.steps[k].network,
                device_ids=[self.device.index] if self.device.type == "cuda" else None,
                process_group=group,
                bucket_cap_mb=plan["bucket_cap_mb"],
            )
            for k, group in self.groups.items()
        }

    def about(self) -> dict[str, Any]:
        """What it computes on, and the bytes of its gradients."""
        trained = [weight for weight in self.steps[self.plan["ranks"][-1]].network.parameters() if weight.requires_grad]
        return {
            "device": self.device.type,
            "threads": torch.get_num_threads(),
            "backend": self.backend,
            "gradient_bytes": sum(weight.numel() * weight.element_size() for weight in trained),
        }

    def turn(self, ranks: int, images: int, synchronised: bool) -> float:
        """Seconds of the steps of one turn, after a warm-up and once every rank is there."""
        batch = self.steps[ranks].synthetic(images)
        self.take(ranks, batch, synchronised, WARM_UP)
        if ranks > 1:
            dist.barrier(self.groups[ranks])
        wait_for_device(self.device)
        started = perf_counter()
        self.take(ranks, batch, synchronised, self.plan["steps"])
        wait_for_device(self.device)
        return perf_counter() - started

    def take(self, ranks: int, batch: tuple[Tensor, Tensor], synchronised: bool, times: int) -> None:
        """Forward, backward, optimizer."""
        step = self.steps[ranks]
        network = self.networks.get(ranks, step.network)
        for _ in range(times):
            with nullcontext() if synchronised else cast(DistributedDataParallel, network).no_sync():
                with step.precision.forward_context():
                    loss = step.network.loss(network(batch[0]), batch[1])
                step.optimizer.zero_grad(set_to_none=True)
                loss.backward()
            step.optimizer.step()


def compute_seconds(point: dict[str, Any]) -> float:
    """Of a step without communication, median over rounds."""
    return statistics.median(point.get("seconds_without_communication", point["seconds"]))


def on_paper(record: dict[str, Any], modes: list[str], network: Network) -> dict[str, Any]:
    """The model beside what was measured, the bandwidth that fits it best, and further ranks of such devices."""
    size = record["gradient_bytes"]
    count = buckets(size, record["bucket_cap_mb"])
    measured = [
        {"ranks": p["ranks"], "step": statistics.median(p["seconds"]), "compute": compute_seconds(p)}
        for p in record["points"]
    ]
    bandwidth = fitted(measured, size, count, network)
    here = joined(network, bandwidth) if bandwidth else None
    points = [
        predicted(p["compute"], size, count, p["ranks"], here)._asdict() | {"measured": p["step"]} if here else None
        for p in measured
    ]
    computation = Computation.through([(p["images_per_rank"], compute_seconds(p)) for p in record["points"]])
    return {
        "buckets": count,
        "fitted_bandwidth": bandwidth,
        "points": points,
        "assumed": vars(network),
        "fixed_seconds": computation.fixed,
        "seconds_per_image": computation.per_image,
        "further": extrapolated(computation, record["batch_size"], modes, FURTHER, size, count, network),
    }


def rows_of(record: dict[str, Any]) -> list[list[str]]:
    """The measured points: medians over rounds of ratios within a round, and their range."""
    one = record["points"][0]["seconds"]
    rows = []
    for point, paper in zip(record["points"], record["on_paper"]["points"], strict=True):
        k, mode, times = point["ranks"], point["mode"], point["seconds"]
        kept = [100 * efficiency(mode, a, b, k) for a, b in zip(one, times, strict=True)]
        bare = point.get("seconds_without_communication", times)
        shares = [100 * (1 - b / a) for a, b in zip(times, bare, strict=True)]
        alone = k == 1
        rows.append(
            [
                str(k),
                "–" if alone else mode,
                str(point["images_per_rank"]),
                f"{1e3 * statistics.median(times):.2f}",
                "–" if alone else f"{statistics.median(shares):.0f} ({min(shares):.0f} to {max(shares):.0f})",
                "100" if alone else f"{statistics.median(kept):.0f} ({min(kept):.0f} to {max(kept):.0f})",
                f"{1e3 * paper['step']:.2f}" if paper else "–",
            ]
        )
    return rows


def as_text(record: dict[str, Any]) -> str:
    """The measurement and the model, for a terminal."""
    from tabulate import tabulate

    paper, hardware = record["on_paper"], record["hardware"]
    assumed = Network(**paper["assumed"])
    rate = paper["fitted_bandwidth"]
    fit = (
        f"{rate / 1e9:.3g} GB/s of each rank fit best"
        if rate
        else "no bandwidth could be fitted: no communication was seen"
    )
    headers = ["ranks", "scaling", "images a rank", "ms", "communication, %", "efficiency, %", "on paper, ms"]
    further = [
        [
            str(one["ranks"]), one["mode"], f"{one['images_per_rank']:g}", f"{1e3 * one['step_seconds']:.2f}",
            f"{100 * one['communication']:.0f}", f"{100 * one['efficiency']:.0f}", one["bound"],
        ]
        for one in paper["further"]
    ]  # fmt: skip
    return "\n\n".join(
        [
            f"{record['recipe']}: batch {record['batch_size']}, {record['backend']} on {hardware['name']}, "
            f"{hardware['threads_per_rank']} threads a rank, {len(record['points'][0]['seconds'])} rounds of "
            f"{record['steps']} steps, load {hardware['load_before']:.1f} before",
            tabulate(rows_of(record), headers, disable_numparse=True),
            f"ms: a step on the wall, of the slowest rank. {record['gradient_bytes'] / 1e6:.3g} MB of gradients in "
            f"{paper['buckets']} buckets; on paper {fit}.",
            "On paper, more devices like this one, measured nowhere. Assumed: "
            f"{assumed.bandwidth / 1e9:g} GB/s of each device between nodes, {assumed.node_bandwidth / 1e9:g} within "
            f"one of {assumed.node_size}, {1e6 * assumed.latency:g} us a hop, {assumed.collective} all-reduce, "
            f"{100 * assumed.overlap:.0f} % of the computation can hide it; a step computes "
            f"{1e3 * paper['fixed_seconds']:.3g} ms and {1e3 * paper['seconds_per_image']:.3g} ms an image.",
            tabulate(further, [*headers[:-1], "bound by"], disable_numparse=True),
        ]
    )
