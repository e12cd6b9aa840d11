#!/usr/bin/env bash
# What compose.yaml starts, without containers: two workers before a fake Qwen, clients that visit them, and, where there is
# one, a Prometheus. Ends all of it on Ctrl-C. `make dashboard`, or deploy/dashboard.sh FOLDER of the program.
set -euo pipefail
bin=${1:?"the folder that streamtee is installed in"}
here=$(cd "$(dirname "$0")" && pwd)
fake=${FAKE:-127.0.0.1:8000}
prometheus=${PROMETHEUS:-127.0.0.1:9091}
export STREAMTEE_LISTEN=${STREAMTEE_LISTEN:-127.0.0.1:8080} STREAMTEE_ADMIN=${STREAMTEE_ADMIN:-127.0.0.1:9090}
export STREAMTEE_UPSTREAM__URL=http://$fake STREAMTEE_WORKERS=2 STREAMTEE_DRAIN_S=1
export STREAMTEE_LOG_LEVEL=warning # a line for each stream would hide where things are

work=$(mktemp -d)
started=()
finish() {
    kill "${started[@]}" 2>/dev/null || true
    wait
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 0' INT TERM

"$bin/streamtee" fake --listen "$fake" &
started+=($!)
# It prints where its metrics are and, on a terminal, the console's address.
"$bin/streamtee" serve --config "$here/compose/streamtee.toml" &
started+=($!)
"$bin/python" "$here/compose/visitors.py" "http://$STREAMTEE_LISTEN" >"$work/visitors.log" &
started+=($!)
if command -v prometheus >"$work/path"; then
    sed "s/proxy:9090/$STREAMTEE_ADMIN/; s#rules.yml#$here/prometheus/rules.yml#" "$here/prometheus/prometheus.yml" >"$work/prometheus.yml"
    prometheus --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/data" --web.listen-address="$prometheus" --log.level=error &
    started+=($!)
    echo "Prometheus on http://$prometheus/graph?g0.tab=0&g0.range_input=5m&g0.expr=job_route_model:streamtee_time_to_first_token_seconds:p95_5m"
else
    echo "no Prometheus is installed here; one with prometheus/prometheus.yml and a Grafana with grafana/streamtee.json draw the same"
fi
wait -n "${started[@]}" # until Ctrl-C, or until one of them ends, which says why
