#!/usr/bin/env bash
# A sweep as one Slurm job: Ray's head on its first node, a worker on each further one, the driver on the head.
#
#   sbatch clusters/slurm.sh sweep.yaml [key=value ...]
#   sbatch --nodes=8 --gpus-per-node=8 clusters/slurm.sh sweep.yaml     options before the script win over those below
#
# Everything after the script's name goes to `catsweep run`. Run it in the folder of the sweep, with `catsweep` and `ray`
# in PATH on every node. Results go to CATSWEEP_HOME (default ~/catsweep), which all nodes must share. A job that reaches
# its time limit is queued again, and so is a preempted one where the partition has PreemptMode=REQUEUE; it goes on.
#SBATCH --job-name=catsweep
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@180
set -euo pipefail
if [ $# -eq 0 ] || [ -z "${SLURM_JOB_ID:-}" ]; then
    sed -n '2,9s/^# \{0,1\}//p' "$0"
    exit 2
fi

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
on_head=(srun --overlap --nodes=1 --ntasks=1 --nodelist="$head")
ip=$("${on_head[@]}" hostname --ip-address | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 20000)) # two jobs on one node must not meet
address=$ip:$port
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 RAY_ADDRESS=$address
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # since Slurm 22.05 srun does not take it from the job

# Other users of these nodes reach Ray's ports: who has no token is refused. The file lies in the home that all nodes share.
ray get-auth-token --generate >/dev/null

node=(--num-cpus "${SLURM_CPUS_PER_TASK:-1}" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" --disable-usage-stats --block)
"${on_head[@]}" ray start --head --node-ip-address "$ip" --port "$port" --dashboard-host 127.0.0.1 \
    --dashboard-port $((port + 20000)) --resources '{"catsweep_head": 1}' "${node[@]}" >/dev/null &
pids=($!)
trap 'kill "${pids[@]}" 2>/dev/null || true' EXIT
for _ in $(seq 60); do
    "${on_head[@]}" ray health-check --address "$address" >/dev/null 2>&1 && break
    sleep 2
done
for worker in "${nodes[@]:1}"; do
    srun --overlap --nodes=1 --ntasks=1 --nodelist="$worker" ray start --address "$address" "${node[@]}" >/dev/null &
    pids+=($!)
done

# Ten minutes, or so many nodes as there are by then: the sweep takes in the others when they come.
for _ in $(seq 60); do
    found=$("${on_head[@]}" ray list nodes --filter state=ALIVE --format json 2>/dev/null | grep -o '"node_id"' | wc -l || true)
    [ "${found:-0}" -ge "${#nodes[@]}" ] && break
    sleep 10
done
echo "Ray is up: ${found:-0} of ${#nodes[@]} nodes, head $head ($address)"

# Time is up: queue the job again. The sweep goes on from what is on storage.
trap 'echo "time limit: queued again"; scontrol requeue "$SLURM_JOB_ID"' USR1
"${on_head[@]}" catsweep run "$@" &
driver=$!
code=0
while kill -0 "$driver" 2>/dev/null; do # a signal ends `wait`, not the driver
    code=0
    wait "$driver" || code=$?
done
exit "$code"
