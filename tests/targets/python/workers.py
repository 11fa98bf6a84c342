"""A server that forks workers before they work and replaces them, as gunicorn does with --max-requests. In each round the
workers wait until the next line comes, call a great number of functions once and `handle` often, and end. Each also makes a
function of its own, which every second worker makes of another file: at the same address, as siblings do."""

import os
import sys

from oracle import Count, option, tell

WORKERS, ROUNDS = option("--workers", 8), option("--rounds", 3)
FUNCTIONS, CALLS = option("--functions", 1000), option("--calls", 20)
FILES = ["one", "two"]

HANDLE = Count("handle")
OWN = [Count(file) for file in FILES]

names = {}
exec(compile("\n".join(f"def f_{n}(): return {n}" for n in range(FUNCTIONS)), "library.py", "exec"), names)
functions = [names[f"f_{n}"] for n in range(FUNCTIONS)]


def handle(x):
    return x


def work(number):
    own = {}
    exec(compile("def own(): pass", FILES[number % 2], "exec"), own)
    for function in functions:
        function()
    for n in range(CALLS):
        handle(n)
        own["own"]()


def forked(number):
    """A worker, as the ends of its pipes: it works once something comes, and ends."""
    begin, begins = os.pipe()
    done, ends = os.pipe()
    if os.fork() == 0:
        os.close(begins)
        os.read(begin, 1)
        work(number)
        os.write(ends, b"x")
        os._exit(0)
    os.close(begin)
    os.close(ends)
    return begins, done


tell("ready")
for line in sys.stdin:
    workers = [forked(number) for number in range(WORKERS)]
    tell("forked")
    sys.stdin.readline()
    for number, (begins, done) in enumerate(workers):
        os.write(begins, b"x")
        assert os.read(done, 1) == b"x"
        HANDLE.add(CALLS)
        OWN[number % 2].add(CALLS)
        os.close(begins)
        os.close(done)
    assert all(os.wait()[1] == 0 for _ in workers)
    ROUNDS -= 1
    if ROUNDS == 0:
        break
    tell("worked")
tell("end")
