#!/usr/bin/env bash
# Installs what tests drive besides Python's packages: a C compiler, curl, promtool, nginx, Caddy, Redis, Chromium, Node, the
# JavaScript clients of tests/clients (with CI or WITH_CODEX set also the Codex CLI), the older SDKs of tests/contract,
# and with CI or WITH_DEPLOY set what checks deploy/ (Helm, schemas of Kubernetes). The system's ones as root with apt;
# what can't be installed here is skipped by the tests that need it, by name, and with CI=true they fail.
set -u
cd "$(dirname "$0")" || exit 1
missing=()
command -v curl >/dev/null || missing+=(curl)
command -v promtool >/dev/null || missing+=(prometheus)
command -v nginx >/dev/null || missing+=(nginx-light)
command -v caddy >/dev/null || missing+=(caddy)
command -v systemd-analyze >/dev/null || missing+=(systemd)
command -v chromium >/dev/null || missing+=(chromium)
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
command -v redis-server >/dev/null || missing+=(redis-server)
command -v cc >/dev/null || missing+=(gcc libc6-dev)
headers=$("${PYTHON:-python3}" -c 'import sysconfig; print(sysconfig.get_config_var("INCLUDEPY"))')
[ -e "$headers/Python.h" ] || missing+=(python3-dev)

install() {
  # policy-rc.d: packages are installed for their programs, no daemon is to start.
  local made='' package
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d && made=1
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -y -q --no-install-recommends "$@" >/dev/null 2>&1 || {
    apt-get update -q >/dev/null
    # One by one: a distribution that lacks one of them has the others.
    for package in "$@"; do
      apt-get install -y -q --no-install-recommends "$package" >/dev/null || echo "apt has no $package here" >&2
    done
  }
  [ -n "$made" ] && rm -f /usr/sbin/policy-rc.d
}

if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    install "${missing[@]}"
  else
    echo "not installed, and not installable here: ${missing[*]}" >&2
  fi
fi

# What npm installed last is noted in node_modules/.package-lock.json.
if command -v npm >/dev/null && [ ! clients/node_modules/.package-lock.json -nt clients/package-lock.json ]; then
  npm --prefix clients ci --ignore-scripts --loglevel=error >/dev/null ||
    echo "the JavaScript clients can't be installed here" >&2
fi

# 424 MB, so only where it is asked for.
if [ -n "${CI:-}${WITH_CODEX:-}" ] && command -v npm >/dev/null &&
  [ ! clients/codex/node_modules/.package-lock.json -nt clients/codex/package-lock.json ]; then
  npm --prefix clients/codex ci --ignore-scripts --loglevel=error >/dev/null || echo "the Codex CLI can't be installed here" >&2
fi

# Half a gigabyte, so likewise.
deploy_tools=deploy/.venv
if [ -n "${CI:-}${WITH_DEPLOY:-}" ] && ! cmp -s deploy/requirements.txt $deploy_tools/.installed; then
  python3 -m venv --clear $deploy_tools &&
    $deploy_tools/bin/python -m pip install -q --disable-pip-version-check -r deploy/requirements.txt &&
    cp deploy/requirements.txt $deploy_tools/.installed || echo "the tools of tests/deploy can't be installed here" >&2
fi

# Two majors of an SDK don't fit into one environment.
python=$PWD/../.venv/bin/python
[ -x "$python" ] || python=python3
if ! cmp -s contract/older/requirements.txt contract/older/.venv/.installed; then
  "$python" -m venv --clear contract/older/.venv &&
    contract/older/.venv/bin/python -m pip install -q --disable-pip-version-check -r contract/older/requirements.txt &&
    cp contract/older/requirements.txt contract/older/.venv/.installed || echo "the older SDKs can't be installed here" >&2
fi
exit 0
