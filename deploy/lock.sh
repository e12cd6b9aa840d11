#!/usr/bin/env bash
# Writes deploy/requirements.lock (what runs), deploy/build.lock (what builds the wheel with compiled modules) and
# deploy/sbom.cdx.json (CycloneDX: what runs, with licences). Needs a registry. Run it when pyproject.toml has changed, and
# when `make audit` says so; review the difference before you commit it.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m venv "$work/tools"
"$work/tools/bin/pip" install -q --disable-pip-version-check 'pip-tools>=7.6,<7.7' 'cyclonedx-bom>=7.5,<7.6'
compile() {
    "$work/tools/bin/pip-compile" -q --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
        --strip-extras --allow-unsafe --no-header --no-annotate "$@"
}
compile --extra redis --extra encryption -o deploy/requirements.lock pyproject.toml
HATCH_BUILD_HOOK_ENABLE_MYPYC=1 compile --only-build-deps --build-deps-for wheel -o deploy/build.lock pyproject.toml
# redis asks for it before Python 3.11.3, as Debian 12 has; a lock knows the Python alone with which it was written.
echo 'async-timeout>=4.0.3' | compile -o "$work/older.lock" -
tee -a deploy/requirements.lock < "$work/older.lock" >> deploy/build.lock

"$python" -m venv "$work/locked"
"$work/locked/bin/pip" install -q --disable-pip-version-check --require-hashes -r deploy/requirements.lock
"$work/locked/bin/pip" uninstall -q -y setuptools pip
"$work/tools/bin/cyclonedx-py" environment --pyproject pyproject.toml --mc-type application --output-reproducible \
    --of JSON --sv 1.6 "$work/locked/bin/python" > "$work/sbom.json"
# Without links, most of which lead to hosts that come and go.
"$python" - "$work/sbom.json" > deploy/sbom.cdx.json <<'END'
import json
import sys


def bare(value):
    if isinstance(value, dict):
        return {key: bare(one) for key, one in value.items() if key != "externalReferences"}
    return [bare(one) for one in value] if isinstance(value, list) else value


with open(sys.argv[1]) as file:
    json.dump(bare(json.load(file)), sys.stdout, indent=1, sort_keys=True)
print()
END
