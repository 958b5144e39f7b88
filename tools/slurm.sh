#!/usr/bin/env bash
# Train under Slurm, one process for each GPU; before the time limit the training saves, leaves, and the job is queued again:
#
#   sbatch --nodes 2 tools/slurm.sh CONFIG [KEY VALUE …]      submit it from the root of the repository
#   DRY_RUN=1 bash tools/slurm.sh CONFIG [KEY VALUE …]        only print the command
#
# --ntasks-per-node has to be the number of GPUs of a node. PYTHON and TRAIN name another interpreter and script.
#SBATCH --job-name=hyperclip
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --output=slurm-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=USR1@120
set -euo pipefail

nodes=${SLURM_NNODES:-1}
gpus=${SLURM_NTASKS_PER_NODE:-4}
cpus=${SLURM_CPUS_PER_TASK:-8}
config=${1:-configs/vitb_384_hyperbolic.yaml}
overrides=("${@:2}")
interrupted=85 # exit code of a training that was told to stop and has saved a checkpoint

cd "${SLURM_SUBMIT_DIR:-.}"
train=${TRAIN:-tools/train_net.py}
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python)}
if [ ! -f "$train" ]; then
    echo "error: got no $train in $PWD. Submit from the root of the repository" >&2
    exit 2
fi
granted=${SLURM_GPUS_PER_NODE:-$gpus}
if [ "${granted##*:}" != "$gpus" ]; then
    echo "error: got --ntasks-per-node $gpus with --gpus-per-node $granted, expected the same number" >&2
    exit 2
fi
host=localhost
[ -z "${SLURM_JOB_NODELIST:-}" ] || read -r host < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=${MASTER_PORT:-$((20000 + ${SLURM_JOB_ID:-0} % 10000))}

# No torchrun: it answers a signal by ending its workers after a short grace, and turns their exit code 85 into 1. srun's tasks get
# Slurm's signal themselves, so the shell has to become Python (exec). --wait gives all of them time to leave after the first.
task='export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID; exec "$@"'
command=(srun --nodes="$nodes" --ntasks=$((nodes * gpus)) --ntasks-per-node="$gpus" --cpus-per-task="$cpus"
    --distribution=block --kill-on-bad-exit=0 --wait=60
    env "MASTER_ADDR=$host" "MASTER_PORT=$port" "WORLD_SIZE=$((nodes * gpus))" "LOCAL_WORLD_SIZE=$gpus"
    "PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}" bash -c "$task" task
    "$python" "$train" --config-file "$config" --resume ${overrides[@]+"${overrides[@]}"})
printf '%q ' "${command[@]}"
echo
[ "${DRY_RUN:-0}" != 1 ] || exit 0

code=0
"${command[@]}" || code=$?
# A cancelled job is not running any more, and stays cancelled.
if [ "$code" = "$interrupted" ] && [ "$(squeue --noheader --jobs "$SLURM_JOB_ID" --format %T)" = RUNNING ]; then
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
