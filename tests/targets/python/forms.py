"""Each form of a call that instructions of the interpreter are specialised for, so often that they are. With `--hook` all calls are
shown by a function that is to evaluate frames, as docs/PYTHON.md has it."""

import sys

from oracle import Count, expect, main

INIT = Count("Made.__init__")
DEFAULTED = Count("Defaulted.__init__")
GETITEM = Count("Made.__getitem__")
PROPERTY = Count("Made.part")
METHOD = Count("Made.method")
ATTRIBUTE = Count("Any.__getattribute__")
CALL = Count("Any.__call__")
PLAIN = Count("plain")
NAMED = Count("named")
MANY = Count("many")
CLOSURE = Count("outer.<locals>.inner")
TURNS = Count("turns")
MAPPED = Count("mapped")
RUN = Count("run")

class Made:
    def __init__(self):
        INIT.add()

    def __getitem__(self, index):
        GETITEM.add()
        return index

    @property
    def part(self):
        PROPERTY.add()
        return 1

    def method(self, x):
        METHOD.add()
        return x


class Defaulted:
    def __init__(self, x, y=2):
        DEFAULTED.add()


class Any:
    def __getattribute__(self, name):
        ATTRIBUTE.add()
        return name

    def __call__(self, x):
        CALL.add()
        return x


def plain(x, y=1):
    PLAIN.add()
    return x


def named(*, x):
    NAMED.add()
    return x


def many(*numbers):
    MANY.add()
    return len(numbers)


def outer(x):
    def inner():
        CLOSURE.add()
        return x

    return inner


def turns(n):
    for number in range(n):
        yield number


def mapped(x):
    MAPPED.add()
    return x


def run(calls):
    RUN.add()
    made, some, inner = Made(), Any(), outer(3)
    for i in range(calls):
        Made(), Defaulted(i)
        expect("getitem", i, made[i])
        expect("property", 1, made.part)
        expect("method", i, made.method(i))
        expect("attribute", "anything", some.anything)
        expect("call", i, some(i))
        expect("plain", i, plain(i))
        expect("named", i, named(x=i))
        expect("many", 2, many(*(i, i)))
        expect("closure", 3, inner())
    TURNS.add(calls + 1)
    for i in turns(calls):
        pass
    expect("mapped", calls, len(list(map(mapped, range(calls)))))


if "--hook" in sys.argv:
    import every_call
main(run)
