"""A function that calls a small one two hundred times, again and again. Tells ten times a second how often, and the CPU time that it
took, as tests/targets/costs.c does. Begins when it is told to."""

import sys
import time


def small(x):
    return x + 1


def handle():
    for n in range(200):
        small(n)


turns, spent, told = 0, 0, 0.0
print("0 0", flush=True)
sys.stdin.read(1)
while True:
    begun = time.thread_time_ns()
    handle()
    spent += time.thread_time_ns() - begun
    turns += 1
    time.sleep(0.001)
    if time.monotonic() > told + 0.1:
        told = time.monotonic()
        print(turns, spent, flush=True)
