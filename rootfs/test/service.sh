# shellcheck shell=sh
# What the tests of the service share: a configuration for a program that can be told to make a fault, and how that is started.
# Sourced; works in the current folder.
. /lib/judge.sh

cat >edgelat.toml <<END
[agent]
state_dir = "$PWD/state"
run_dir = "$PWD/run"
interval = "1s"
scan = "500ms"
max_cost = 1000.0
[[target]]
name = "faults"
command = "faults"
functions = ["step0*"]
max_cost = 1000.0
pin = true
END
chmod 600 edgelat.toml
edgelat check -c edgelat.toml || fail "the configuration is not taken"

# say TEXT: to the target, which reads from a pipe.
say() { echo "$1" >&3; }
start() {
    rm -f orders told
    mkfifo orders
    # Both ends, so that nobody waits for the other.
    exec 3<>orders
    # shellcheck disable=SC2094 # a pipe
    /targets/faults --threads 2 "$@" <orders >told &
    target=$!
    wait_for '"event":"ready"' told
}
