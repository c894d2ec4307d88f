# shellcheck shell=bash disable=SC2154  # site.sh and what submit writes set the variables
# The life of a job that trains one run, for train.sbatch and array.sbatch: look at the nodes, copy what is to be read
# from the node's own disk, train, and come back where the run is not finished.
#
# Python never calls scontrol. On the signal before the time limit, fit writes a checkpoint at the end of a step and
# leaves with status 75; this script then requeues the job, this task alone where it is one of an array. So it does
# after a failure with a newer checkpoint than the job started from, and after a few failures in a row without. Where
# the suite itself says why a run ends (a mistake, a loss that is not finite, another process that trains it), it ends.
#
# There is no trap for SIGTERM: bash dies of it, so that `scancel` cancels. A script that answered it with a requeue
# could not be cancelled.

stopped=75                 # exit status of fit: a checkpoint is written, and the run wants to go on
failures_without_progress=3 # in a row, which may be a node's or the network's fault; more are the run's own

say() { printf '[%(%F %T)T] %s\n' -1 "$*"; }

run() { # RECIPE SEED [--override value ...]
    job="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID:-}}" # a bare job id would be the whole array
    job="${job:-$SLURM_JOB_ID}"
    restarts="${SLURM_RESTART_COUNT:-0}"
    export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}" # srun does not inherit it
    export OMP_NUM_THREADS="$SRUN_CPUS_PER_TASK"
    describe_job "$@"
    look_at_nodes || exit 2
    open_notes
    stage
    local before
    before="$(state step)"
    train "$@"
    end $? "${before:-0}"
}

describe_job() { # RECIPE SEED ...
    say "job $job, start $((restarts + 1)): $*"
    say "nodes $SLURM_JOB_NODELIST, tasks per node ${SLURM_NTASKS_PER_NODE:-1}, GPUs ${SLURM_GPUS_ON_NODE:-none}," \
        "cores per task $SRUN_CPUS_PER_TASK, open files $(ulimit -n), locked memory $(ulimit -l)"
    local now
    now="$(git rev-parse HEAD 2>/dev/null)"
    if [[ -n "${commit:-}" && "$now" != "$commit" ]]; then
        say "warning: submitted at commit $commit, the checkout is at ${now:-none now}: its code is what runs"
    fi
}

# One task on every node, before Python is started anywhere: each must see what the job will use.
look_at_nodes() {
    local outside="${python[0]}"
    if [[ -n "${container[*]}${srun_options[*]}" ]]; then outside=; fi # it is in the container
    # shellcheck disable=SC2016  # for the nodes' shells
    on_every_node bash -c '
        data="$1" runs="$2" python="$3" fault=
        mkdir -p -- "$runs" 2>/dev/null
        if [[ ! -w "$runs" ]]; then fault="cannot write ILSVRC_BENCH_RUNS (=$runs)"; fi
        if [[ -n "$data" && ! -r "$data/." ]]; then fault="cannot read ILSVRC_BENCH_DATA (=$data)"; fi
        if [[ -n "$python" ]] && ! command -v -- "$python" >/dev/null; then fault="has no Python at $python"; fi
        if [[ -z "$fault" ]]; then exit 0; fi
        echo "error: ${SLURMD_NODENAME:-a node} $fault: every node must; see slurm/site.sh, or use --exclude." >&2
        exit 1
    ' - "${ILSVRC_BENCH_DATA:-}" "$ILSVRC_BENCH_RUNS" "$outside"
}

on_every_node() { # COMMAND...
    srun --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" --ntasks-per-node=1 --kill-on-bad-exit=0 "$@"
}

# Where fit notes the folder of the run and its exit status, as the container sees it too.
open_notes() {
    local folder="$ILSVRC_BENCH_RUNS/jobs/notes"
    mkdir -p -- "$folder"
    export ILSVRC_BENCH_NOTES="$folder/$job"
    if ((restarts == 0)); then rm -f -- "$ILSVRC_BENCH_NOTES"; fi # of another job with this number
    started="$folder/.$job.started"
    : >"$started"
    note exit "" # of this start there is none yet
}

noted() { # KEY: the last value noted under it
    sed -n "s/^$1 //p" "$ILSVRC_BENCH_NOTES" 2>/dev/null | tail -n 1
}

note() { # KEY VALUE
    echo "$1 $2" >>"$ILSVRC_BENCH_NOTES"
}

state() { # KEY of the run's state.json
    local folder
    folder="$(noted folder)"
    sed -n "s/.*\"$1\": *\"\{0,1\}\([^\",}]*\).*/\1/p" "$folder/state.json" 2>/dev/null | head -n 1
}

# The .beton files that submit found the run to read, once to every node.
stage() {
    if [[ -z "${beton[*]:-}" || "$ILSVRC_BENCH_STAGE" == never ]]; then return; fi
    export ILSVRC_BENCH_LOCAL="$ILSVRC_BENCH_SCRATCH/ilsvrc-bench-$UID"
    on_every_node "${srun_options[@]}" "${container[@]}" "${python[@]}" -m benchmarks stage \
        --policy "$ILSVRC_BENCH_STAGE" --to "$ILSVRC_BENCH_LOCAL" "${beton[@]}" ||
        say "warning: staging failed, the shared files are read"
}

# One task per device: Lightning reads both numbers from here, so that they cannot differ. Signals that come before
# Python can take them are ignored. `exec`, because some sites send them to the task alone.
train() { # RECIPE SEED [--override value ...]
    local accelerator=()
    if [[ -n "${SLURM_GPUS_ON_NODE:-}" ]]; then accelerator=(--trainer.accelerator gpu); fi # never the CPU instead
    # shellcheck disable=SC2016  # for the tasks' shells
    srun --kill-on-bad-exit=1 --wait=60 "${srun_options[@]}" bash -c 'trap "" USR1 USR2; exec "$@"' - \
        "${container[@]}" "${python[@]}" -m benchmarks fit --config "$1" --seed_everything "$2" \
        --trainer.num_nodes "$SLURM_NNODES" --trainer.devices "${SLURM_NTASKS_PER_NODE:-1}" "${accelerator[@]}" \
        --data.workers "$SRUN_CPUS_PER_TASK" "${@:3}"
}

# Nothing that comes after the training may change what its status says.
end() { # STATUS STEP_AT_THE_START
    local status="$1" before="$2" folder now reached
    folder="$(noted folder)" now="$(state status)" reached="$(state step)" reached="${reached:-0}"
    if [[ ! "$folder/state.json" -nt "$started" ]]; then now=; fi # of an earlier start
    say "fit ended with status $status; the run is ${now:-as it was}, at step $reached (step $before at the start)"
    if ((status == 0)); then exit 0; fi
    if [[ "$now" == finished ]]; then exit 0; fi # a task failed when all was written
    if [[ -n "$(noted exit)" ]]; then exit "$status"; fi # the suite knows why: to come back would not help
    local failures
    failures="$(noted failures)" failures="${failures:-0}" # since the last progress
    if ((status == stopped)) || [[ "$now" == stopped ]]; then
        note failures 0
        requeue "stopped with a checkpoint"
    elif ((reached > before)); then
        note failures 0
        requeue "failed, but got on"
    elif ((failures < failures_without_progress)); then
        note failures $((failures + 1))
        requeue "failed without progress, $((failures + 1)) in a row"
    fi
    exit "$status"
}

requeue() { # WHY
    if ((restarts >= ILSVRC_BENCH_RESTARTS)); then
        say "not requeued: $restarts restarts, as many as ILSVRC_BENCH_RESTARTS allows. It goes on when submitted again"
    elif [[ "$(squeue --noheader --jobs="$job" --format=%T)" == RUNNING ]]; then # not while it is cancelled
        say "requeued: $1"
        scontrol requeue "$job" && sleep 600 # Slurm ends this script; leaving before would be the end of the job
    fi
}
