# shellcheck shell=sh
# What the tests of this folder share: programs of tests/targets count their own calls, and what `edgelat watch --json`
# reports must agree with them. Sourced; works in the current folder.

fail() {
    echo "$*"
    # The files are small: whoever reads the log wants to see them all.
    for file in told last errors scheduler; do
        if [ -s "$file" ]; then
            echo "[$file]"
            cat "$file"
        fi
    done
    exit 1
}

# wait_for TEXT FILE [TIMES]: until so many lines have it.
wait_for() {
    patience=300
    # The file may come with the program that writes it.
    until seen=$(grep -c "$1" "$2" 2>/dev/null) && [ "$seen" -ge "${3:-1}" ]; do
        patience=$((patience - 1))
        if [ "$patience" -le 0 ]; then
            echo "[$2] $(tail -n 1 "$2" 2>/dev/null)"
            fail "$2 never said $1"
        fi
        usleep 100000
    done
}

# The one child of a process: of a guard, its collector. Not every kernel lists children (CONFIG_PROC_CHILDREN).
child_of() { grep -l "^PPid:[[:space:]]*$1\$" /proc/[0-9]*/status 2>/dev/null | sed 's|/proc/||; s|/status||'; }

# Where a process may run.
allowed() { sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' "/proc/$1/status"; }

# start MASK ARGUMENT...: a program of its own judge on these CPUs, $target, which waits for orders on descriptor 3.
start() {
    rm -f report told errors say
    mkfifo say
    mask=$1
    shift
    taskset "$mask" /targets/plain "$@" <say >told &
    target=$!
    exec 3<>say
    wait_for '"event":"ready"' told
}

# changed PROCESS: how many bytes of its program's text differ from the file. Nothing where it has no text.
changed() {
    read -r range _ offset _ _ file <<END
$(grep ' r-xp .* /targets/' "/proc/$1/maps")
END
    [ -n "$file" ] || return 0
    pages=$(((0x${range#*-} - 0x${range%-*}) / 4096))
    dd if="/proc/$1/mem" bs=4096 skip=$((0x${range%-*} / 4096)) count=$pages of=memory 2>/dev/null
    dd if="$file" bs=4096 skip=$((0x$offset / 4096)) count=$pages of=text 2>/dev/null
    # The last page may reach over the end of the file.
    [ -s memory ] && [ -s text ] && cmp -l -n "$(stat -c %s text)" memory text | wc -l
}
# until_changed PROCESS no|yes: until its text is as in the file, or is not any more.
until_changed() {
    patience=150
    until case $(changed "$1") in '') false ;; 0) [ "$2" = no ] ;; *) [ "$2" = yes ] ;; esac; do
        patience=$((patience - 1))
        [ "$patience" -gt 0 ] || fail "$(changed "$1") bytes of the text of process $1 differ from the file, must be: $2"
        usleep 100000
    done
}

# What the list says that this kernel can do, ROUTE/RETURNS a word; `any` for a kernel that is not in the list.
ways() { tr ' ' '\n' </proc/cmdline | sed -n 's/^edgelat\.ways=//p' | tr ',' ' '; }
# What --returns is to be given for a way.
returns_of() { echo "${1#*/}" | sed 's/-session$//'; }

# Reads ./report of the agent into ./measured and checks what must hold of any last line: the account of each function
# adds up, and nothing is in flight that nobody is in. Both sides say {"name":"add",...} for each function.
read_report() {
    tail -n 1 report >last
    grep -q '"final":true' last || fail "the last line of the report is not the final one"
    # What was refused has names as well, and no figures.
    sed -n 's/"refused":\[.*//; s/.*"functions":\[\(.*\)/\1/p' last | sed 's/{"name":"/\n&/g' | sed '/^$/d' >measured
    for function in $(functions_in measured); do
        sum=$(($(measured "$function" exits) + $(measured "$function" in_flight) + $(measured "$function" abandoned) + \
            $(measured "$function" evicted) + $(measured "$function" ended_inside) + \
            $(measured "$function" over_range) + $(measured "$function" table_full) + \
            $(measured "$function" unkeyed) + $(measured "$function" unresolved)))
        [ "$(measured "$function" entries)" = "$sum" ] || fail "$function: the account does not add up"
        [ "$(measured "$function" exits)" = "$(measured "$function" count)" ] || fail "$function: exits are not count"
    done
}

# read_oracle EVENT: what the target said of itself, into ./counted.
read_oracle() {
    grep "\"event\":\"$1\"" told | sed 's/{"name":"/\n&/g' | grep '^{"name"' >counted
    ! grep -q '"ok":false' told || fail "the target did not get right results"
}

functions_in() { sed -n 's/^{"name":"\([^"]*\)".*/\1/p' "$1"; }
number() { sed -n "s/^{\"name\":\"$2\",.*\"$3\":\([0-9]*\)[,}].*/\1/p" "$1"; }
measured() { number measured "$1" "$2"; }
counted() { number counted "$1" "$2"; }

# same FUNCTION FIGURE EXPECTED
same() {
    [ -n "$3" ] && [ "$(measured "$1" "$2")" = "$3" ] || fail "$1: $2 is $(measured "$1" "$2"), must be $3"
}
