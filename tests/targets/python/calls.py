"""Every way in which a function of Python is called: methods, recursion, generators, coroutines, exceptions, closures,
callbacks from C, scripts, and functions that live for one call."""

import functools
import itertools
import time

from oracle import Count, expect, main, option

ADD = Count("add")
HANDLE = Count("Server.handle")
DESCEND = Count("descend")
INNER = Count("outer.<locals>.inner")
NUMBERS = Count("numbers")
STEP = Count("step")
ONCE = Count("Once.__await__")
RAISES = Count("raises")
PASSES = Count("passes")
KEYED = Count("keyed")
LAMBDA = Count("work.<locals>.<lambda>")
WIDE = Count("größe_木_𝛼")
DRAWN = Count("drawn")
WAITS = Count("waits")
SCRIPT = Count("<module>")
# From their first resume to their return.
AWAITS = [(Count("await numbers"), 1), (Count("await drawn"), 2), (Count("await step"), 1), (Count("await Once.__await__"), 1)]
SHORT = [Count(f"short_{n}") for n in range(10)]


def add(a, b):
    ADD.add()
    return a + b


class Server:
    def handle(self, request):
        HANDLE.add()
        return add(len(request), 1)


def descend(depth):
    DESCEND.add()
    return 0 if depth == 0 else 1 + descend(depth - 1)


def outer(x):
    def inner(y):
        INNER.add()
        return x * y

    return inner


def numbers(n):
    for number in range(n):
        yield number


def drawn(n):
    yield n


class Once:
    def __await__(self):
        return (yield "once")


async def step():
    return await Once()


def raises(n):
    RAISES.add()
    raise ValueError(n)


def passes(n):
    PASSES.add()
    raises(n)


def keyed(x):
    KEYED.add()
    return -x


def größe_木_𝛼():
    WIDE.add()
    return 7


def waits():
    begin = time.perf_counter_ns()
    time.sleep(0.002)
    WAITS.add(ns=time.perf_counter_ns() - begin)


# As many functions as are asked for, each called once in a turn.
MANY = {}
MANY_COUNTS = [Count(f"many_{n}") for n in range(option("--many", 0))]
for n in range(len(MANY_COUNTS)):
    exec(f"def many_{n}():\n    pass\n", MANY)


def work(turns):
    server = Server()
    script = compile("result = 6 * 7", "script.py", "exec")
    for turn in range(turns):
        expect("handle", 4, server.handle("abc"))
        expect("descend", 7, descend(7))
        expect("inner", 15, outer(3)(5))
        NUMBERS.add(5)
        expect("numbers", 6, sum(numbers(4)))
        # Made by C, and resumed by C.
        DRAWN.add(4)
        expect("drawn", 3, sum(itertools.chain.from_iterable(map(drawn, [1, 2]))))
        coroutine = step()
        for answer in (None, 9):
            STEP.add()
            ONCE.add()
            try:
                coroutine.send(answer)
            except StopIteration as stop:
                expect("step", 9, stop.value)
        try:
            passes(turn)
            expect("passes", "an exception", "none")
        except ValueError as error:
            expect("raises", turn, error.args[0])
        expect("keyed", [3, 2, 1], sorted([2, 3, 1], key=keyed))
        LAMBDA.add(3)
        expect("lambda", 6, functools.reduce(lambda a, b: a + b, [0, 1, 2, 3]))
        expect("wide", 7, größe_木_𝛼())
        if turn % 20 == 0:
            waits()
        for n, count in enumerate(MANY_COUNTS):
            count.add()
            MANY[f"many_{n}"]()
        for count, each in AWAITS:
            count.add(each)
        names = {}
        SCRIPT.add()
        exec(script, names)
        expect("script", 42, names["result"])
        # Code objects that live for one call, at addresses that are used again.
        short = turn % 10
        exec(f"def short_{short}(x):\n    return x + {turn}\n", names)
        SHORT[short].add()
        expect("short", turn + 1, names[f"short_{short}"](1))


main(work)
