# shellcheck shell=bash
# What the scripts of this folder share; to be sourced. Sets `root` (the project), `cache` and `out`.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034 # used by those who source this
cache=${XDG_CACHE_HOME:-$HOME/.cache}/edgelat
# shellcheck disable=SC2034
out=$root/build/qemu

say() { echo "${0##*/}: $*" >&2; }
die() { say "$*"; exit 1; }

# Debian's name of an architecture.
debian_architecture() {
    case $1 in
        x86_64) echo amd64 ;;
        aarch64) echo arm64 ;;
        *) die "no kernels for '$1': x86_64 and aarch64 are in the list" ;;
    esac
}

# Every kernel of the list: `series architecture` a line.
kernels() {
    awk -F ' = ' '$1 == "series" { series = $2 } $1 == "architecture" { print series, $2 }' "$root/qemu/kernels.toml" |
        tr -d '"'
}

# One field of a kernel of the list: `kernel_field SERIES ARCHITECTURE FIELD`. An array becomes words.
kernel_field() {
    awk -v series="\"$1\"" -v architecture="\"$2\"" -v field="$3" '
        /^#/ || !NF { next }
        /^\[\[kernel\]\]$/ { s = a = ""; next }
        {
            name = $1
            value = $0
            sub(/^[^=]*= /, "", value)
            if (name == "series") s = value
            if (name == "architecture") a = value
            if (name == field && s == series && a == architecture) {
                if (value ~ /^\[/) gsub(/[][,"]/, "", value)
                gsub(/^["\047]|["\047]$/, "", value)
                print value
                found = 1
                exit
            }
        }
        END { exit !found }' "$root/qemu/kernels.toml" ||
        die "no kernel $1 for $2 in qemu/kernels.toml, or it has no $3"
}
