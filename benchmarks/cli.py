"""The command line: `python -m benchmarks COMMAND`, or `ilsvrc-bench COMMAND`. Heavy imports wait for their command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from benchmarks.errors import explain
from benchmarks.notes import note

TRAINING = ("fit", "validate", "test")  # parsed by LightningCLI


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command; fit, validate, test, doctor and analyze are only listed here, with their own."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Reproduce ILSVRC-era results: train LeNet, AlexNet, VGG and ResNet as their papers did, and say "
        "for every published number whether it is reproduced.",
        epilog="`python -m benchmarks COMMAND --help` says more of each. Start with `doctor`, then `demo`.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("fit", help="train a recipe, evaluate it, write its result", add_help=False)
    commands.add_parser("validate", help="evaluate a run on its validation images", add_help=False)
    commands.add_parser("test", help="evaluate a run on the test images under each protocol", add_help=False)

    ensemble = commands.add_parser(
        "ensemble",
        help="evaluate the networks of an ensemble, averaged, write its result",
        description="Average the softmaxes of networks that are trained, or whose weights are given, as the recipe of "
        "an ensemble lists them, under each protocol its claims name. Members that are not trained are named with the "
        "command that trains them. Settings for every member, such as --data.loader torch, may follow the recipe.",
        usage="python -m benchmarks ensemble RECIPE [options] [--data.loader torch ...]",
        allow_abbrev=False,
    )
    ensemble.add_argument("recipe", metavar="RECIPE", help="an ensemble's name, imagenet/alexnet_5, or any YAML file")
    ensemble.add_argument(
        "--repetition",
        type=natural,
        default=0,
        metavar="N",
        help="the same with other members: N > 0 raises every seed beyond those of the repetitions before (default: 0)",
    )
    ensemble.add_argument("--runs", help="folder of all runs (default: runs)")
    ensemble.add_argument("--again", action="store_true", help="evaluate anew although there is a result")

    demo = commands.add_parser("demo", help="train five networks on digits in minutes and rank them")
    demo.add_argument("--seeds", type=positive, default=3, help="runs of each network, seeds 0, 1, ... (default: 3)")
    demo.add_argument("--runs", help="folder of all runs (default: runs)")

    listing = commands.add_parser("list", help="recipes, their claims, our best result and the verdict")
    listing.add_argument("--runs", help="folder of all runs (default: runs)")
    listing.add_argument("--dataset", help="only recipes of this dataset")

    prepare = commands.add_parser(
        "prepare", help="obtain a dataset, convert it to .beton where it is read from one, verify"
    )
    prepare.add_argument("dataset", help="digits, mnist, mnist1989, usps, cifar10, cifar100, imagenet or imagenet2010")
    prepare.add_argument("--root", help="folder with the originals (default: $ILSVRC_BENCH_DATA)")
    prepare.add_argument("--cache", help="folder for converted files (default: $ILSVRC_BENCH_CACHE or a user cache)")
    prepare.add_argument(
        "--loader",
        choices=("auto", "ffcv", "torch", "resident"),
        default="auto",
        help="that will read it: ffcv alone reads a .beton; auto (default) is ffcv for image files where FFCV is there",
    )
    prepare.add_argument("--num-classes", type=positive, help="classes of an ImageNet subset (default: the dataset's)")
    prepare.add_argument("--workers", type=positive, help="processes that encode (default: every core)")
    prepare.add_argument("--max-size", type=positive, help="image files: longest side stored, in pixels (default: 500)")
    prepare.add_argument("--quality", type=positive, help="image files: JPEG quality, 1 to 95 (default: 90)")
    prepare.add_argument("--mode", help="image files: jpg, raw (fast, large) or mixed (default: jpg)")
    prepare.add_argument("--raw-share", type=float, help="image files: share stored raw by --mode mixed, such as 0.5")
    prepare.add_argument(
        "--corrupt",
        help="image files that cannot be decoded: refuse, after all are found, or skip (default: refuse)",
    )
    prepare.add_argument("--dry-run", action="store_true", help="convert nothing: print disk, memory and time it takes")

    board = commands.add_parser("leaderboard", help="a table of results: error, seeds, verdict, images/s")
    board.add_argument("--format", choices=["table", "md", "csv", "json"], default="table", help="default: table")
    board.add_argument(
        "--by-run", action="store_true", help="a row for each run and protocol, with all that is known of it"
    )
    board.add_argument("--dataset", help="only this dataset")
    board.add_argument("--protocol", help="only this protocol")
    board.add_argument("--runs", help="folder of all runs (default: runs)")
    board.add_argument(
        "--committed", action="store_true", help="results committed in benchmarks/results, and none of runs here"
    )
    board.add_argument(
        "--from-wandb",
        metavar="ENTITY/PROJECT",
        help="also the finished runs of a W&B project; the newer of two counts",
    )
    board.add_argument("--write", metavar="FILE", help="put the committed results' table between FILE's marks")
    board.add_argument("--html", metavar="FILE", help="write one page with tables and plots, which opens from disk")

    report = commands.add_parser(
        "report",
        help="write the results as a W&B report and workspace, print their addresses",
        description="Build a report and a workspace from result files, here and at W&B, and save them in a W&B "
        "project; again, in the place of those saved before. Needs `pip install -e '.[report]'`.",
    )
    report.add_argument(
        "project",
        nargs="?",
        metavar="ENTITY/PROJECT",
        help="default: $WANDB_ENTITY, or whose key it is, and $WANDB_PROJECT, or ilsvrc-bench",
    )
    report.add_argument("--runs", help="folder of all runs (default: runs)")
    report.add_argument(
        "--dry-run", action="store_true", help="save nothing, ask W&B nothing: print what would be sent, as JSON"
    )

    check = commands.add_parser(
        "check",
        help="whether result files can be true, before they are committed",
        description="Hold result files to their recipes: schema, hash of the settings, claims, counts, times, origin. "
        "What is refused is said with its remedy, and the exit status is 1.",
    )
    check.add_argument("files", nargs="*", metavar="FILE", help="result files (default: all in benchmarks/results)")

    sync = commands.add_parser(
        "sync",
        help="send runs to W&B that were trained without it",
        description="Send to W&B what it does not have of the runs below a folder: rows of their tables, results, "
        "files. For a machine that reaches it, such as a login node; needs a key (`wandb login`). May be given again: "
        "nothing arrives twice, and a run counts as sent once W&B says that it has it. Exit status 1 if one failed.",
    )
    sync.add_argument("root", nargs="?", metavar="ROOT", help="folder of runs, or one run (default: runs)")
    sync.add_argument("--dry-run", action="store_true", help="send nothing: say what would be")

    ablate = commands.add_parser(
        "ablate",
        help="train the variants of a grid over seeds; cells and contrasts beside the paper's",
        description="Train every cell of a grid with every seed, what is done excepted, and set means and differences, "
        "with 95 %% confidence intervals, beside the paper's. Settings for every run, such as --data.loader torch, may "
        "follow the grid. Without GRID: list the grids.",
        usage="python -m benchmarks ablate [GRID] [options] [--data.loader torch ...]",
        allow_abbrev=False,
    )
    ablate.add_argument("grid", nargs="?", metavar="GRID", help="a grid's name, digits/skip, or any YAML file")
    ablate.add_argument("--seeds", metavar="0-4", help="seeds instead of the grid's: a range, or several: 0,2,5")
    ablate.add_argument("--runs", help="folder of all runs (default: runs)")
    ablate.add_argument("--again", action="store_true", help="train the runs anew whose loss did not stay finite")
    ablate.add_argument("--format", choices=["table", "md", "csv", "json"], default="table", help="default: table")
    modes = ablate.add_mutually_exclusive_group()
    modes.add_argument("--table", action="store_true", help="train nothing: the table of what is there")
    modes.add_argument("--dry-run", action="store_true", help="train nothing: print the commands that would")
    modes.add_argument("--submit", action="store_true", help="submit the runs to Slurm, as `submit` does")
    ablate.add_argument(
        "--sbatch",
        default="",
        metavar="OPTIONS",
        help='options of sbatch, for --submit: --sbatch="--time=4:00:00 --gpus-per-node=1"',
    )

    submit = commands.add_parser(
        "submit",
        help="queue recipes on a Slurm cluster: prepare, train, report",
        description="Check recipes, data and scripts, then queue a job for each run and seed, after one that converts "
        "the data where that is not done, and before one that writes the table. A run that is preempted, times out or "
        "loses a node comes back by itself. Settings for every run, such as --data.loader torch, may follow. Prints "
        "the jobs' ids, one a line.",
        usage="python -m benchmarks submit RECIPE... | --all [options] [--data.loader torch ...]",
        allow_abbrev=False,
    )
    submit.add_argument("recipes", nargs="*", metavar="RECIPE", help="names of recipes, or files")
    submit.add_argument("--all", action="store_true", help="every recipe with a claim that is not reproduced yet")
    submit.add_argument("--seeds", default="0-0", metavar="0-4", help="a range, or several: 0,2,5 (default: 0-0)")
    submit.add_argument("--runs", help="folder of all runs, which every node sees (default: runs)")
    submit.add_argument("--no-report", action="store_true", help="no job that writes the table when all have ended")
    submit.add_argument("--dry-run", action="store_true", help="queue nothing: print the scripts")
    submit.add_argument("--test-only", action="store_true", help="queue nothing: have sbatch check the scripts")
    add_resources(submit)

    status = commands.add_parser("status", help="submitted runs: state, progress, images/s, expected end")
    status.add_argument("--submission", metavar="FOLDER", help="only this one (default: all that are not finished)")
    status.add_argument("--all", action="store_true", help="finished submissions too")
    status.add_argument("--runs", help="folder of all runs (default: runs)")
    status.add_argument("--format", choices=["table", "md", "csv", "json"], default="table", help="default: table")

    plan = commands.add_parser("plan", help="GPU-hours, wall time, disk and memory of a recipe, from measured images/s")
    plan.add_argument("recipe", metavar="RECIPE", help="name of a recipe, or a file")
    plan.add_argument("--images-per-s", type=float, metavar="R", help="instead of measured ones: of one device")
    plan.add_argument("--images", type=positive, help="training images, where no result of the dataset says so")
    plan.add_argument("--nodes", type=positive, default=1, help="default: 1")
    plan.add_argument("--gpus-per-node", type=positive, default=1, metavar="G", help="default: 1")
    plan.add_argument("--seeds", default="0-0", metavar="0-4", help="a range, or several: 0,2,5 (default: 0-0)")
    plan.add_argument("--runs", help="folder of all runs (default: runs)")

    stage = commands.add_parser("stage", help="copy .beton files to this node's disk; job scripts call it")
    stage.add_argument("files", nargs="+", metavar="FILE", help=".beton files")
    stage.add_argument("--to", required=True, metavar="FOLDER", help="on this node")
    stage.add_argument(
        "--policy", choices=["auto", "copy", "never"], default="auto", help="default: auto, if too large"
    )

    throughput = commands.add_parser(
        "throughput",
        help="images per second of recipes, taken apart, or of the loaders beside their peers",
        description="With recipes: images per second of the network alone, of the loader alone and of fit, the parts "
        "of a step, FLOPs and their share of what the device can do, peak memory, and what bounds them; settings such "
        "as --data.batch_size 256 or --trainer.precision bf16-mixed come after the recipes. With --loaders, loaders "
        "alone: images per processor second of the suite's and of FFCV, torchvision, timm and, where they are "
        "installed, DALI, SPDL and webdataset, on the same images. Each runs in a process of its own.",
    )
    throughput.add_argument("recipes", nargs="*", metavar="RECIPE", help="such as mnist/lenet5")
    throughput.add_argument("--steps", type=positive, default=30, help="of each measurement of a recipe (default: 30)")
    throughput.add_argument(
        "--search-batch", type=positive, metavar="LIMIT", help="find the largest batch up to LIMIT that fits in memory"
    )
    throughput.add_argument(
        "--loaders",
        choices=["imagenet", "cifar10", "mnist"],
        nargs="?",
        const="imagenet",
        help="measure the loaders of this dataset (default: imagenet)",
    )
    throughput.add_argument("--contestants", nargs="+", metavar="NAME", help="only these, and plain FFCV")
    throughput.add_argument("--rounds", type=positive, default=5, help="turns of each loader (default: 5)")
    throughput.add_argument("--images", type=positive, help="per epoch (default: 2048 photos, all small images)")
    throughput.add_argument("--batch-size", type=positive, default=128, help="images per batch (default: 128)")
    throughput.add_argument("--workers", type=positive, help="threads or processes (default: every core)")
    throughput.add_argument("--photos", metavar="FOLDER", help="photos in class folders, for imagenet")
    throughput.add_argument("--root", help="folder with the originals (default: $ILSVRC_BENCH_DATA)")
    throughput.add_argument("--json", metavar="FILE", help="write everything that was measured")
    throughput.add_argument("--plot", metavar="FILE", help="draw the rates, as .png, .svg or .pdf")
    throughput.add_argument(
        "--write", metavar="FILE", help="put the committed measurements' tables between FILE's marks"
    )
    throughput.add_argument("--quick", action="store_true", help="few images, one round: to see whether all runs")

    commands.add_parser(
        "analyze", help="the lecture's experiments: numbers that are checked, and a figure", add_help=False
    )

    commands.add_parser("doctor", help="check packages, libraries, data, devices; say what to do", add_help=False)

    race = commands.add_parser(
        "time-to-accuracy",
        help="seconds until a test accuracy is reached, over several seeds",
        description="Train a recipe with seeds 0, 1, ... and say how many seconds each took to reach a test accuracy. "
        "It takes no settings: copy the recipe to a file, change them there, and name the file.",
    )
    race.add_argument("recipe", nargs="?", default="mnist/lenet5_fast", help="default: mnist/lenet5_fast")
    race.add_argument(
        "--until", type=percent, default=99.0, metavar="PERCENT", help="accuracy in percent (default: 99)"
    )
    race.add_argument("--seeds", type=positive, default=5, help="runs (default: 5)")
    race.add_argument("--json", metavar="FILE", help="write everything that was measured")
    race.add_argument("--write", metavar="FILE", help="put the committed races' table between FILE's marks")
    race.add_argument("--tsv", metavar="FILE", help="write each run in DAWNBench's form: FILE-seed-0.tsv for FILE.tsv")

    peers = commands.add_parser(
        "peers",
        help="training steps beside those of today's scripts",
        description="Steps of fit beside those of a bare loop, of torchvision's references and of timm's script: the "
        "same network, batch and optimizer, in alternation. Settings, such as --data.batch_size 256, come after the "
        "recipe.",
    )
    peers.add_argument("recipe", nargs="?", default="mnist/lenet5", help="default: mnist/lenet5")
    peers.add_argument("--rounds", type=positive, default=5, help="turns of each (default: 5)")
    peers.add_argument("--steps", type=positive, default=100, help="steps of each turn (default: 100)")
    peers.add_argument("--json", metavar="FILE", help="write everything that was measured")
    peers.add_argument("--write", metavar="FILE", help="put the committed measurements' tables between FILE's marks")

    speed = commands.add_parser(
        "speed",
        help="the whole table of a GPU's speed, one measurement after the other",
        description="Measure, one after the other and each into a file of its own: throughput of ResNet-50 with 256 "
        "images a step, bf16, compiled, and its steps beside the peers'; throughput of ResNet-20 and LeNet-5 with CUDA "
        "graphs; ten seeds of cifar10/resnet18_fast to 94 %%. Parts that are there are left, failing ones passed over.",
    )
    speed.add_argument("--to", metavar="FOLDER", help="for the files (default: benchmarks/measurements)")
    speed.add_argument("--small", action="store_true", help="on a CPU, of digits: to see whether all runs")

    scaling = commands.add_parser(
        "scaling",
        help="what training keeps of its speed on 1 to k ranks, and on paper on many more",
        description="Steps of DDP on 1 to k ranks, one for each GPU, or for cores where there is none: efficiency, "
        "strong (the recipe's batch is shared) and weak (each rank has one), and the share of communication, which is "
        "the difference to the same steps within no_sync. Batches lie ready; nothing is read. Then the model on paper, "
        "T(k) = C + max(A/n, A - overlap C), A = n hops latency + 2(k-1)/k bytes/bandwidth: its fit to what was "
        "measured, and 8, 64 and 1024 such devices joined as the options say. Settings, such as --data.batch_size 256, "
        "come after the recipe.",
    )
    scaling.add_argument("recipe", nargs="?", metavar="RECIPE", help="such as imagenet/resnet50")
    scaling.add_argument("--ranks", type=numbers, default=[1, 2], metavar="1,2,...", help="from 1 on (default: 1,2)")
    scaling.add_argument("--mode", choices=["strong", "weak", "both"], default="both", help="default: both")
    scaling.add_argument("--rounds", type=positive, default=5, help="turns of each (default: 5)")
    scaling.add_argument("--steps", type=positive, default=20, help="steps of each turn (default: 20)")
    scaling.add_argument("--bucket-cap-mb", type=positive, default=25, help="of DDP, in MiB (default: 25)")
    scaling.add_argument("--json", metavar="FILE", help="write everything that was measured")
    scaling.add_argument("--write", metavar="FILE", help="put the committed measurements' tables between FILE's marks")
    paper = scaling.add_argument_group("assumptions of the model on paper")
    paper.add_argument(
        "--bandwidth", type=above_zero, default=25, metavar="GB/S", help="of each GPU between nodes (default: 25)"
    )
    paper.add_argument(
        "--node-bandwidth", type=above_zero, default=200, metavar="GB/S", help="of each GPU in a node (default: 200)"
    )
    paper.add_argument("--node-size", type=positive, default=8, metavar="G", help="GPUs of a node (default: 8)")
    paper.add_argument("--latency", type=above_zero, default=5, metavar="US", help="of a hop (default: 5)")
    paper.add_argument(
        "--overlap", type=share, default=2 / 3, help="of the computation that can hide communication (default: 2/3)"
    )
    paper.add_argument("--collective", choices=["auto", "ring", "tree"], default="auto", help="default: auto, faster")

    overhead = commands.add_parser("overhead", help="time of training with Lightning over an equal bare loop")
    overhead.add_argument("recipe", nargs="?", default="mnist/lenet5", help="default: mnist/lenet5")
    overhead.add_argument("--pairs", type=positive, default=5, help="pairs of measurements (default: 5)")
    overhead.add_argument("--steps", type=positive, default=300, help="steps of each measurement (default: 300)")
    overhead.add_argument("--callbacks", action="store_true", help="the share of each callback, and W&B's, instead")
    overhead.add_argument("--json", metavar="FILE", help="with --callbacks: write everything that was measured")
    return parser


def add_resources(parser: argparse.ArgumentParser) -> None:
    """Add the options of sbatch that the suite checks; their names are sbatch's."""
    resources = parser.add_argument_group("resources of each run, as sbatch's options")
    resources.add_argument("--nodes", type=positive, metavar="N", help="default: 1")
    resources.add_argument("--gpus-per-node", type=positive, metavar="G", help="one rank each (default: no GPU)")
    resources.add_argument("--ntasks-per-node", type=positive, metavar="T", help="ranks per node, without GPUs")
    resources.add_argument("--cpus-per-task", type=positive, metavar="C", help="cores of each rank (default: 8)")
    resources.add_argument("--mem", help="memory of each node, such as 64G")
    resources.add_argument("--time", help="limit of one start; a longer run comes back (default: 4:00:00)")
    resources.add_argument("--array-limit", type=positive, metavar="P", help="so many runs at a time")
    for name in ("partition", "account", "qos", "constraint", "reservation", "exclude"):
        resources.add_argument(f"--{name}", help="as sbatch's (default: the site's)")


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} must be at least 1")
    return value


def numbers(text: str) -> list[int]:
    """Whole numbers of at least 1, separated by commas."""
    return [positive(part) for part in text.split(",")]


def above_zero(text: str) -> float:
    """A finite number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be above 0, and finite")
    return value


def share(text: str) -> float:
    """A number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must be from 0 to 1: a share")
    return value


def percent(text: str) -> float:
    """An accuracy in percent, over 1, which is more likely meant as a fraction, and at most 100."""
    value = float(text)
    if not 1 < value <= 100:
        raise argparse.ArgumentTypeError(
            f"{text} must be over 1 and at most 100: percent, not a fraction; 99, not 0.99"
        )
    return value


def natural(text: str) -> int:
    """A whole number of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} must be at least 0")
    return value


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, 2 for a user's mistake, 1 for what failed.

    69 says that another process trains the run; `benchmarks.signals` has those of runs that were stopped.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments and arguments[0] in TRAINING:
            from benchmarks import fit

            return fit.main(arguments[0], arguments[1:])
        if arguments and arguments[0] == "doctor":
            from benchmarks import doctor

            return doctor.main(arguments[1:])
        if arguments and arguments[0] == "analyze":
            from benchmarks import analyze

            return analyze.main(arguments[1:])
        options = parse(arguments)
        return command(options.command)(options)
    except KeyboardInterrupt:
        print(
            "stopped; the same command goes on from its last checkpoint, or the last image converted.",
            file=sys.stderr,
        )
        return 130
    except Exception as error:
        message, status = explain(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        note("exit", status)
        return status


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of a command; `settings` are what ablate, ensemble and others hand on to every run."""
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command not in ("ablate", "ensemble", "peers", "scaling", "submit", "throughput"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.settings = rest
    options.arguments = arguments
    return options


def command(name: str) -> Callable[[argparse.Namespace], int]:
    """The function that runs the command `name`, imported now."""
    if name == "demo":
        from benchmarks.demo import demo

        return demo
    if name == "ablate":
        from benchmarks.ablate import ablate

        return ablate
    if name == "ensemble":
        from benchmarks.ensemble import ensemble

        return ensemble
    if name == "list":
        from benchmarks.leaderboard import show_recipes

        return show_recipes
    if name == "prepare":
        from benchmarks.prepare import prepare

        return prepare
    if name == "throughput":
        from benchmarks.throughput_command import throughput

        return throughput
    if name == "peers":
        from benchmarks.step_peers import step_peers

        return step_peers
    if name == "speed":
        from benchmarks.speed import speed

        return speed
    if name == "scaling":
        from benchmarks.scaling import scaling

        return scaling
    if name == "time-to-accuracy":
        from benchmarks.time_to_accuracy import time_to_accuracy

        return time_to_accuracy
    if name == "submit":
        from benchmarks.submit import submit

        return submit
    if name == "status":
        from benchmarks.status import status

        return status
    if name == "plan":
        from benchmarks.plan import plan

        return plan
    if name == "stage":
        from benchmarks.stage import stage_files

        return stage_files
    if name == "report":
        from benchmarks.report import report

        return report
    if name == "check":
        from benchmarks.check import check

        return check
    if name == "sync":
        from benchmarks.sync import sync

        return sync
    if name == "leaderboard":
        from benchmarks.leaderboard import leaderboard

        return leaderboard
    from benchmarks.overhead import overhead

    return overhead
