"""Coroutines and generators from their first resume to their return: ones that never suspend, that wait, that raise, that are
cancelled, closed before their end, and left suspended."""

import asyncio
import sys
import time

from oracle import Count, expect, main, option, tell

HANDLE = Count("await handle")
REQUEST = Count("await request")
SLEPT = Count("slept")
STREAM = Count("await stream")
CANCELLED = Count("await cancelled")
RAISES = Count("await raises")
CLOSED = Count("await closed")
LEFT = Count("await left")
OTHERS = option("--others", 0)

kept = []


async def handle():
    begin = time.perf_counter_ns()
    while time.perf_counter_ns() - begin < 2_000_000:
        pass
    HANDLE.add(ns=time.perf_counter_ns() - begin)
    return 1


async def request():
    begin = time.perf_counter_ns()
    slept = 0
    for duration in (0.001, 0.001, 0.001, 0):
        before = time.perf_counter_ns()
        await asyncio.sleep(duration)
        slept += time.perf_counter_ns() - before
    SLEPT.add(ns=slept)
    REQUEST.add(ns=time.perf_counter_ns() - begin)
    return 1


async def stream():
    for number in range(3):
        await asyncio.sleep(0)
        yield number
    STREAM.add()


async def cancelled():
    CANCELLED.add()
    await asyncio.sleep(1000)


def raises():
    RAISES.add()
    yield 1
    raise ValueError


def closed():
    CLOSED.add()
    yield 1
    yield 2


def left():
    LEFT.add()
    yield 1
    yield 2


# As many generators as are asked for, each left suspended after one resume.
NAMES = {}
for n in range(OTHERS):
    exec(f"def other_{n}():\n    yield 1\n    yield 2\n", NAMES)


async def turns_of(turns):
    for _ in range(turns):
        expect("handle", 1, await handle())
    expect("requests", turns, sum(await asyncio.gather(*[request() for _ in range(turns)])))
    for _ in range(turns):
        expect("stream", [0, 1, 2], [number async for number in stream()])
        task = asyncio.ensure_future(cancelled())
        await asyncio.sleep(0)
        task.cancel()
        try:
            await task
            expect("cancelled", "an exception", "none")
        except asyncio.CancelledError:
            pass
        try:
            expect("raises", "an exception", list(raises()))
        except ValueError:
            pass
        for number in closed():
            expect("closed", 1, number)
            break


def work(turns):
    for n in range(OTHERS):
        kept.append(NAMES[f"other_{n}"]())
        next(kept[-1])
        # So that what is decided about one is known before the next ones come.
        time.sleep(0.002)
    if OTHERS:
        tell("others")
        sys.stdin.readline()
    for _ in range(option("--keep", 0)):
        kept.append(left())
        next(kept[-1])
    asyncio.run(turns_of(turns))


main(work)
