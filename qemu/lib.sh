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

# One field of a kernel of the list: `kernel_field SERIES ARCHITECTURE FIELD [DEFAULT]`. An array becomes words. Without
# a default, a field that is not there is an error.
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
        END { exit !found }' "$root/qemu/kernels.toml" && return
    if [ $# -gt 3 ]; then echo "$4"; else die "no kernel $1 for $2 in qemu/kernels.toml, or it has no $3"; fi
}

# left_out SERIES ARCHITECTURE: the tests that a kernel of the list leaves out, a line each. A name of an array above the
# first kernel stands for what is in that.
left_out() {
    local word
    for word in $(kernel_field "$1" "$2" without ''); do
        awk -v word="$word" '
            /^\[\[/ { exit }
            $1 == word { sub(/^[^=]*= /, ""); gsub(/[][,"]/, ""); gsub(/ /, "\n"); word = $0 }
            END { print word }' "$root/qemu/kernels.toml"
    done
}

# kvm_works ARCHITECTURE VMLINUZ: can this machine's processor run a guest itself? Shown by a boot without a file system,
# which ends in a panic at once, because a nested /dev/kvm may open and still be unable to run an ordinary guest.
# EDGELAT_KVM=yes|no answers without a trial.
kvm_works() {
    case ${EDGELAT_KVM:-} in
        yes) return 0 ;;
        no) return 1 ;;
    esac
    [ "$1" = "$(uname -m)" ] && [ -w /dev/kvm ] || return 1
    local answer=$out/kvm trial
    # Two guests may ask at the same time; both come to the same answer.
    if [ ! -s "$answer" ]; then
        mkdir -p "$out"
        trial=$(timeout 20 "qemu-system-$1" -M "$([ "$1" = x86_64 ] && echo q35 || echo virt,gic-version=host)" \
            -accel kvm -cpu host -m 256 -nographic -no-reboot -nodefaults -serial stdio -kernel "$2" \
            -append 'console=ttyS0 console=ttyAMA0 panic=-1' </dev/null 2>&1 || true)
        if grep -q 'Linux version' <<<"$trial"; then echo yes; else echo no; fi >"$answer.$$"
        mv "$answer.$$" "$answer"
    fi
    [ "$(<"$answer")" = yes ]
}
