#!/usr/bin/env bash
# A Ray head node on this machine, with the dashboard and job server on 127.0.0.1:8265.
#
#   clusters/local.sh up      start it, and print the lines with which to submit a sweep
#   clusters/local.sh down    stop what `up` started on this machine
#
# RAY_PORT (default 6379) and DASHBOARD_PORT (default 8265) choose other ports; CATSWEEP_HOME is where results go.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
export PATH="$here/.venv/bin:$PATH"
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export CATSWEEP_HOME="${CATSWEEP_HOME:-$HOME/catsweep}"
port=${RAY_PORT:-6379} dashboard=${DASHBOARD_PORT:-8265}

case "${1:-}" in
up)
    # The job server refuses whoever has no token; it is generated once and read by every client of this user.
    ray get-auth-token --generate >/dev/null
    ray start --head --port "$port" --dashboard-host 127.0.0.1 --dashboard-port "$dashboard" --disable-usage-stats >/dev/null
    cat <<TEXT
Ray is up: http://127.0.0.1:$dashboard; results go to $CATSWEEP_HOME. To run a sweep on it:
  export RAY_AUTH_MODE=token
  ray job submit --address http://127.0.0.1:$dashboard --working-dir . -- catsweep run search_spaces/quickstart.yaml
TEXT
    ;;
down)
    ray stop >/dev/null
    echo "Ray is down"
    ;;
*)
    sed -n '2,7s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
