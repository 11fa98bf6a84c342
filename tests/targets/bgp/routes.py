"""Announces and withdraws routes through exabgp, as the orders in a pipe say: `announce FIRST COUNT`, `withdraw FIRST
COUNT`, or `flap FIRST COUNT`, which does both in turn until there is a file `stop`. exabgp answers each command; only then
comes the next one. What has been done is written to the file `done`."""

import os
import sys
import threading
import time


def say(verb, number):
    octets = ".".join(str(number >> shift & 255) for shift in (16, 8, 0))
    print(f"{verb} route 10.{octets}/32 next-hop 192.0.2.2", flush=True)
    return sys.stdin.readline().strip() == "done"


def perform(verb, numbers):
    if verb == "flap":
        rounds = 0
        while not os.path.exists("/mnt/stop"):
            if not (perform("announce", numbers) and perform("withdraw", numbers)):
                return False
            rounds += 1
        return rounds > 0
    return all([say(verb, number) for number in numbers])


def end_with(parent):
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(0)


# An exabgp that is killed does not tell, and the pipe has no end.
threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
while True:
    with open("/mnt/orders") as orders:
        for line in orders:
            verb, first, count = line.split()
            good = perform(verb, range(int(first), int(first) + int(count)))
            with open("/mnt/done", "a") as done:
                print("done" if good else "failed", line.strip(), file=done)
