#!/usr/bin/env bash
# Ray on this machine: a head node with the dashboard and job server on 127.0.0.1:8265, and more nodes beside it.
#
#   clusters/local.sh up [N]    start a head, and N further nodes (default 0) that share this machine's cores
#   clusters/local.sh down      stop what `up` started with the same RAY_PORT, and no other Ray of this machine
#
# RAY_PORT (default 6379) and DASHBOARD_PORT (default 8265) choose other ports, NODE_CPUS the cores that each node counts
# (default: all of the machine's for a head alone, else their share); CATSWEEP_HOME is where results go. The dashboard
# answers this machine only, and every port of Ray asks for a token.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
export PATH="$here/.venv/bin:$PATH"
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export CATSWEEP_HOME="${CATSWEEP_HOME:-$HOME/catsweep}"
port=${RAY_PORT:-6379} dashboard=${DASHBOARD_PORT:-8265}

case "${1:-}" in
up)
    nodes=${2:-0}
    case $nodes in '' | *[!0-9]*) echo "found $nodes further nodes; expected a number" >&2 && exit 2 ;; esac
    cores=$(getconf _NPROCESSORS_ONLN) share=$((cores / (nodes + 1)))
    cpus=${NODE_CPUS:-$((share > 0 ? share : 1))}
    common=(--num-cpus "$cpus" --disable-usage-stats)
    # The job server refuses whoever has no token; it is generated once and read by every client of this user.
    ray get-auth-token --generate >/dev/null
    # The resource holds the drivers of sweeps on the head.
    ray start --head --port "$port" --dashboard-host 127.0.0.1 --dashboard-port "$dashboard" \
        --resources '{"catsweep_head": 1}' "${common[@]}" >/dev/null
    for _ in $(seq "$nodes"); do
        ray start --address "127.0.0.1:$port" "${common[@]}" >/dev/null
    done
    cat <<TEXT
Ray is up with $((nodes + 1)) nodes: http://127.0.0.1:$dashboard; results go to $CATSWEEP_HOME. To run a sweep on it:
  catsweep submit search_spaces/quickstart.yaml --cluster http://127.0.0.1:$dashboard --follow
or with Ray's own command:
  export RAY_AUTH_MODE=token
  ray job submit --address http://127.0.0.1:$dashboard --working-dir . -- catsweep run search_spaces/quickstart.yaml
TEXT
    ;;
down)
    # Every process of a node names the port of its head; workers end with their node.
    mapfile -t pids < <(ps -eo pid=,args= | awk -v port="$port" \
        '$0 ~ "(--gcs-address=[^ ]*:|--gcs_server_port=)" port "( |$)" && !/awk/ {print $1}')
    if [ ${#pids[@]} -gt 0 ]; then
        kill "${pids[@]}" 2>/dev/null || true
        for _ in $(seq 100); do kill -0 "${pids[@]}" 2>/dev/null && sleep 0.2; done
        kill -KILL "${pids[@]}" 2>/dev/null || true
    fi
    # Ray's own note of the newest cluster: ray.init() would still look for it.
    newest="${RAY_TMPDIR:-/tmp}/ray/ray_current_cluster"
    if grep -qs ":$port\$" "$newest"; then rm -f "$newest"; fi
    echo "Ray is down: ${#pids[@]} processes ended"
    ;;
*)
    sed -n '2,9s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
