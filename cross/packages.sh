#!/usr/bin/env bash
# Installs the Debian packages of the lists named: `cross/packages.sh LEVEL...`. Does nothing, quickly, when all
# are installed. The images of Cross.toml are made with the same script and the same lists.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

wanted=()
for level in "$@"; do
    list=$here/packages/$level.txt
    if [ ! -f "$list" ]; then
        echo "cross/packages.sh: no list $list" >&2
        exit 2
    fi
    mapfile -t -O "${#wanted[@]}" wanted < <(sed -e 's/#.*//' -e 's/[[:space:]]*$//' -e '/^$/d' "$list")
done

[ "${PACKAGES:-}" = skip ] && exit 0
[ ${#wanted[@]} -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null; then
    cat >&2 <<END
cross/packages.sh: there is no apt-get here. The lists cross/packages/*.txt are for Debian 12.
Install what corresponds to these packages and try again with PACKAGES=skip:
  ${wanted[*]}
END
    exit 1
fi

native=$(dpkg --print-architecture)
declare -A installed=()
while read -r name status; do
    if [ "$status" = installed ]; then installed[$name]=1; fi
done < <(dpkg-query -W -f '${Package}:${Architecture} ${db:Status-Status}\n' "${wanted[@]%%:*}" 2>/dev/null)

missing=() foreign=()
for package in "${wanted[@]}"; do
    architecture=$native
    if [[ $package == *:* ]]; then architecture=${package#*:}; fi
    name=${package%%:*}
    if [ -n "${installed[$name:$architecture]:-}${installed[$name:all]:-}" ]; then continue; fi
    missing+=("$package")
    if [ "$architecture" != "$native" ]; then foreign+=("$architecture"); fi
done
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        {
            echo "cross/packages.sh: these packages are missing, and only root can install them. As root, run:"
            for architecture in "${foreign[@]}"; do echo "  dpkg --add-architecture $architecture"; done | sort -u
            echo "  apt-get update"
            echo "  apt-get install --no-install-recommends ${missing[*]}"
        } >&2
        exit 1
    fi
    as_root=(sudo)
fi

echo "cross/packages.sh: installing ${missing[*]}"
for architecture in "${foreign[@]}"; do
    if ! dpkg --print-foreign-architectures | grep -qx "$architecture"; then
        "${as_root[@]}" dpkg --add-architecture "$architecture"
    fi
done

log=$(mktemp)
trap 'rm -f "$log"' EXIT
quietly() {
    if ! "$@" >"$log" 2>&1 </dev/null; then
        cat "$log" >&2
        return 1
    fi
}
# A source of this machine that has nothing to do with Debian may be down: what counts is the installation.
quietly "${as_root[@]}" apt-get update || echo "cross/packages.sh: apt-get update had errors; going on" >&2
if ! quietly "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}"; then
    echo "cross/packages.sh: apt-get could not install: ${missing[*]}" >&2
    echo "The lists are for Debian 12; the lines above say what apt-get missed." >&2
    exit 1
fi
