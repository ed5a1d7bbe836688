#!/bin/sh
# Serve what catsweep has logged: http://127.0.0.1:5000.
#
#   mlflow/start.sh             the database of the default root (CATSWEEP_HOME, else ~/catsweep)
#   mlflow/start.sh ROOT        the database of another root (catsweep run --out ROOT)
#
# Settings: server.env beside this file; an environment variable of the same name wins.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=${1:-${CATSWEEP_HOME:-$HOME/catsweep}}

while IFS='=' read -r name value; do
    case $name in '' | '#'*) continue ;; esac
    eval "[ -n \"\${$name:-}\" ] || export $name=\$value"
done <"$here/server.env"
: "${MLFLOW_BACKEND_STORE_URI:=sqlite:///$(realpath "$root")/mlflow.db}"
: "${MLFLOW_ARTIFACTS_DESTINATION:=$(realpath "$root")/mlartifacts}"

case $MLFLOW_BACKEND_STORE_URI in
sqlite:///*)
    if [ ! -f "${MLFLOW_BACKEND_STORE_URI#sqlite:///}" ]; then
        echo "${MLFLOW_BACKEND_STORE_URI#sqlite:///} is missing; expected the database of a sweep." \
            "Run one first, or name its root: mlflow/start.sh ROOT" >&2
        exit 2
    fi
    ;;
esac
cd / # a folder named mlflow in the working directory must not stand before the package
exec "${MLFLOW:-mlflow}" server \
    --backend-store-uri "$MLFLOW_BACKEND_STORE_URI" --artifacts-destination "$MLFLOW_ARTIFACTS_DESTINATION" \
    --host "$MLFLOW_HOST" --port "$MLFLOW_PORT" --workers "$MLFLOW_WORKERS"
