#!/bin/bash
# Solvers of a training online, one per job of an array: docs/cluster.md.
#
#   sbatch workflow/profiles/slurm/solvers.sh PRESET EXPERIMENT METHOD SEED PORT
#
# Eight at a time: where one ends before the training does, however it ends, the next takes its place.
#SBATCH --job-name=longrun-solvers
#SBATCH --array=1-1000%8
#SBATCH --requeue
#SBATCH --cpus-per-task=1
#SBATCH --mem=2G
#SBATCH --time=240
#SBATCH --output=/dev/null
set -euo pipefail
training=rule_train_wildcards_$1_$2_$3_$4 # what Snakemake calls its job

log=logs/$1/$2/$3/seed$4/solver$SLURM_ARRAY_TASK_ID.log
mkdir -p "$(dirname "$log")"
exec >"$log" 2>&1

node() { squeue --me --noheader --states=RUNNING --format='%B %k' | sed -n "s/ $training\$//p"; }
until [ -n "$(node)" ]; do sleep 10; done
OMP_NUM_THREADS=1 python -m longrun.stream --connect "tcp://$(node):$(($5 + $4))" --patience 600 \
    --name "solver$SLURM_ARRAY_TASK_ID"
scancel --state=PENDING "$SLURM_ARRAY_JOB_ID" # the training has all that it needs
