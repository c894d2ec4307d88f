# shellcheck shell=bash disable=SC2034  # what is set here is used by those who read it
# What this cluster is like: the one file here that a site edits. Every job reads it, and `python -m benchmarks submit`
# before anything is queued. ILSVRC_BENCH_SITE=/path/to/other.sh names another file. What the environment of the
# submitting shell says wins over the values here, all of which are `:=` for this reason.

# What is asked of sbatch where neither the command line nor the template says it. These are sbatch's own variables.
# : "${SBATCH_PARTITION:=gpu}" "${SBATCH_ACCOUNT:=project}" "${SBATCH_QOS:=normal}" "${SBATCH_CONSTRAINT:=h100}"
# export SBATCH_PARTITION SBATCH_ACCOUNT SBATCH_QOS SBATCH_CONSTRAINT

# Python. `make setup` makes .venv in the checkout; modules that it needs at run time are loaded here.
# module purge; module load cuda/12.8
: "${ILSVRC_BENCH_VENV:=.venv}"
python=("$ILSVRC_BENCH_VENV/bin/python")

# A container, if the suite lives in one: a prefix of the command (Apptainer), or options of srun (Pyxis).
container=()    # (apptainer exec --nv --bind /data,/scratch /images/ilsvrc-bench.sif)
srun_options=() # (--container-image=/images/ilsvrc-bench.sqsh --container-mounts=/data,/scratch)

# Folders that every node sees. Originals are only read.
# : "${ILSVRC_BENCH_DATA:=/data}" "${ILSVRC_BENCH_CACHE:=/scratch/$USER/cache}"
# : "${ILSVRC_BENCH_RUNS:=/scratch/$USER/runs}"
: "${ILSVRC_BENCH_RUNS:=runs}"
export ILSVRC_BENCH_RUNS
if [[ -n "${ILSVRC_BENCH_DATA:-}" ]]; then export ILSVRC_BENCH_DATA; fi
if [[ -n "${ILSVRC_BENCH_CACHE:-}" ]]; then export ILSVRC_BENCH_CACHE; fi

# A node's own fast disk, for copies of .beton files; jobs on one node share them. `auto` copies what does not fit in
# the node's memory beside the job, and reads the rest in place; `copy` always copies; `never` does not.
: "${ILSVRC_BENCH_SCRATCH:=${SLURM_TMPDIR:-${TMPDIR:-/tmp}}}" "${ILSVRC_BENCH_STAGE:=auto}"

# How often a job may start again before somebody should look at it.
: "${ILSVRC_BENCH_RESTARTS:=20}"

# Network. NCCL and gloo find the interface by themselves on most clusters.
# export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0
# Compute nodes often have no internet. Runs find out within seconds whether they reach W&B, and `python -m benchmarks
# sync` on a login node sends those that did not; WANDB_MODE=offline spares them the question.
: "${HF_HUB_OFFLINE:=1}"
export HF_HUB_OFFLINE
