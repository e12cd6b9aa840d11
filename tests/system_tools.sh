#!/usr/bin/env bash
# Installs the system tools that tests drive: curl, promtool. As root with apt; elsewhere the tests that need
# them are skipped by name, and with CI=true they fail.
set -u
missing=()
command -v curl >/dev/null || missing+=(curl)
command -v promtool >/dev/null || missing+=(prometheus)
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "not installed, and not installable here: ${missing[*]}" >&2
  exit 0
fi
# policy-rc.d: packages are installed for their programs, no daemon is to start.
made=
if [ ! -e /usr/sbin/policy-rc.d ]; then
  printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d && made=1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null 2>&1 ||
  { apt-get update -q >/dev/null && apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null; }
[ -n "$made" ] && rm -f /usr/sbin/policy-rc.d
exit 0
