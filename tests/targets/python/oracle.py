"""tests/targets/oracle.h for targets that are written in Python: a target counts the calls of its own functions, checks the
results of its own work, and tells all that over the same protocol. Runs on Python 3.8 and later."""

import json
import os
import sys
import threading

# From 3.11 on a function is known by its name with those around it, before by its own name alone.
QUALIFIED = sys.version_info >= (3, 11)


class Count:
    """Calls of one function, by thread, so that adding needs no lock."""

    all = []

    def __init__(self, name):
        # What counts whole awaits says so before the name.
        *await_, name = name.rsplit(" ", 1)
        self.name = " ".join([*await_, name if QUALIFIED else name.rsplit(".", 1)[-1]])
        self.calls = {}
        self.sum_ns = {}
        Count.all.append(self)

    def add(self, calls=1, ns=0):
        thread = threading.get_ident()
        self.calls[thread] = self.calls.get(thread, 0) + calls
        self.sum_ns[thread] = self.sum_ns.get(thread, 0) + ns


wrong = []


def expect(what, expected, found):
    if expected != found:
        wrong.append(f"{what}: expected {expected!r}, found {found!r}")


def option(name, otherwise):
    words = sys.argv[1:]
    return int(words[words.index(name) + 1]) if name in words else otherwise


def tell(event):
    functions = {}
    for count in Count.all:
        calls, ns = sum(count.calls.values()), sum(count.sum_ns.values())
        before = functions.get(count.name, (0, 0))
        functions[count.name] = (before[0] + calls, before[1] + ns)
    print(
        json.dumps(
            {
                "event": event,
                "pid": os.getpid(),
                "ok": not wrong,
                "wrong": len(wrong),
                "message": wrong[0] if wrong else "",
                "functions": [
                    {"name": name, "calls": calls, "completed": calls, "unwound": 0, "in_flight": 0, "sum_ns": ns}
                    for name, (calls, ns) in functions.items()
                ],
            }
        ),
        flush=True,
    )


def main(work):
    """Runs `work(turns)` on every thread, between `ready` and `end`."""
    tell("ready")
    turns, threads = option("--calls", 100), option("--threads", 1)
    while "--at-once" not in sys.argv and sys.stdin.readline().strip() != "go":
        pass
    while True:
        workers = [threading.Thread(target=work, args=(turns,)) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if "--stay" not in sys.argv:
            break
        tell("told")
    tell("end")
