"""A second interpreter beside the first, as a server has one for each application. In both a function is called as often. With
`--ask` the second one shows every call, as docs/PYTHON.md has it. Told are: `made` once it is there and has called, `gone` after it."""

import sys

import _interpreters
from oracle import Count, option, tell

CALLS = option("--calls", 200)
FIRST, SECOND = Count("first"), Count("second")

ASK = "import every_call" if "--ask" in sys.argv else ""
SOURCE = f"""import sys
sys.path.insert(0, {sys.path[0]!r})
{ASK}
def second(x):
    return x
def work():
    return [second(n) for n in range({CALLS})]
work()
"""


def first(x):
    return x


def work():
    FIRST.add(CALLS)
    return [first(n) for n in range(CALLS)]


tell("ready")
sys.stdin.readline()
work()
interpreter = _interpreters.create()
failed = _interpreters.run_string(interpreter, SOURCE)
assert not failed, failed
SECOND.add(CALLS)
tell("made")
sys.stdin.readline()
_interpreters.destroy(interpreter)
work()
tell("end")
