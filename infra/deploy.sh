#!/bin/sh
# Make the work pools `local` and `kubernetes`, and deploy every flow of prefect.yaml. Both may exist.
# Reads PREFECT_API_URL and, where the server asks for it, PREFECT_API_AUTH_STRING.
set -eu
cd "$(dirname "$0")/.."
GIGAGAN_ROOT="${GIGAGAN_ROOT:-$(pwd)}"
export GIGAGAN_ROOT

[ -n "${PREFECT_API_URL:-}" ] || {
    echo "deploy: PREFECT_API_URL is not set; give the server's address, such as http://127.0.0.1:4200/api" >&2
    exit 1
}

prefect --no-prompt work-pool inspect local >/dev/null 2>&1 ||
    prefect --no-prompt work-pool create local --type process
if prefect --no-prompt work-pool inspect kubernetes >/dev/null 2>&1; then
    prefect --no-prompt work-pool update kubernetes --base-job-template infra/kubernetes/work-pool.json
else
    prefect --no-prompt work-pool create kubernetes --type kubernetes \
        --base-job-template infra/kubernetes/work-pool.json
fi
prefect --no-prompt deploy --all
