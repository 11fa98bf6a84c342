# shellcheck shell=sh
# What the tests of rights share: two targets, and attempts to measure them with some set of capabilities. Sourced; sets
# $own, a process of user 1000, and $other, one of root.
. /lib/judge.sh

# Calibrating takes as long as everything else: 61-settings does without this.
bias=--no-bias
# attempt UID SET PID ROUTE: tries to measure; `ok` or `refused` in $verdict, and anything else fails the test; on a kernel of
# which nothing is known `unable` as well, where it lacks what the route takes. The targets run only while they are measured.
attempt() {
    tried="uid $1 with $2, route $4, process $3"
    echo "$tried"
    as="as $1 $2"
    [ "$2" != all ] || as=
    kill -CONT "$3"
    # shellcheck disable=SC2086 # words
    $as edgelat watch --json $bias --route "$4" --duration 0.2 -p "$3" add >report 2>errors
    status=$?
    kill -STOP "$3"
    tail -n 1 errors
    case $status in
        0)
            verdict=ok
            read_report
            [ "$(measured add entries)" -gt 0 ] || fail "$tried: nothing was measured, and nobody said so"
            ;;
        3)
            verdict=refused
            named=$(grep -o 'CAP_[A-Z_]*' errors | tr 'A-Z' 'a-z')
            [ -n "$named" ] || fail "$tried: refused without naming a capability"
            for capability in $named; do
                case ,$2, in
                    *",$capability,"*) fail "$tried: refused for want of $capability, which is held" ;;
                esac
            done
            ;;
        4)
            [ "$(ways)" = any ] || fail "$tried: ended with $status"
            verdict=unable
            ;;
        *) fail "$tried: ended with $status" ;;
    esac
}
# must VERDICT UID SET PID ROUTE
must() {
    wanted=$1
    shift
    attempt "$@"
    [ "$verdict" = "$wanted" ] || fail "$tried: $verdict, must be $wanted"
}
# needs CAPABILITY: the last refusal named it.
needs() { grep -q "$1" errors || fail "$tried: refused for want of something else than $1"; }

# The targets are busy: on the processor of the agent, and behind its collector, which is at nice 19, they take no time from it.
taskset -p 1 $$ >/dev/null
as 1000 none idle /targets/plain --at-once --threads 1 --calls 0 >/dev/null &
own=$!
idle /targets/plain --at-once --threads 1 --calls 0 >/dev/null &
other=$!
for target in "$own" "$other"; do
    # Stopped before it is what it will be, it would stay another one's; and until it is stopped it may still be on the way
    # through exec, named like the new program but without its mappings.
    until [ "$(readlink "/proc/$target/exe")" = /targets/plain ]; do usleep 10000; done
    kill -STOP "$target"
    until grep -q '^State:.T' "/proc/$target/status"; do usleep 10000; done
done
trap 'kill -KILL "$own" "$other"' EXIT
