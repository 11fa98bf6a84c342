"""A network function for the demo: a resolver of names. It takes datagrams with a name each and answers with an address
from its zones. `resolver.py load PORT` is the other side."""

import random
import socket
import sys
import threading


class Zone:
    def __init__(self, suffix, size):
        self.suffix = suffix
        self.records = {f"host{n}{suffix}": f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}" for n in range(size)}

    def lookup(self, name):
        address = self.records.get(name)
        if address is None:
            raise KeyError(name)
        return address


class Resolver:
    def __init__(self):
        self.zones = [Zone(".edge.example", 2000), Zone(".core.example", 500)]

    def parse(self, data):
        name = data.decode("ascii").strip().lower()
        if not all(part.isalnum() for part in name.split(".")):
            raise ValueError(name)
        return name

    def resolve(self, name):
        for zone in self.zones:
            if name.endswith(zone.suffix):
                return zone.lookup(name)
        raise KeyError(name)

    def answer(self, data):
        try:
            return self.resolve(self.parse(data))
        except (KeyError, ValueError, UnicodeDecodeError):
            return "-"

    def serve(self, port):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.1", port))
            while True:
                data, peer = server.recvfrom(512)
                server.sendto(self.answer(data).encode(), peer)


def load(port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", port))
        client.settimeout(1)
        while True:
            name = f"host{random.randrange(2500)}.{random.choice(['edge', 'core', 'other'])}.example"
            try:
                client.send(name.encode())
                client.recv(512)
            except (TimeoutError, ConnectionRefusedError):
                pass


if sys.argv[1] == "load":
    load(int(sys.argv[2]))
else:
    threading.Thread(target=Resolver().serve, args=(int(sys.argv[1]),)).start()
