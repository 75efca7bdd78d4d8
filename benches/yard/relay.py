"""A link that is far away: gives every byte on after a fixed time, in both directions, at any rate.

Called as: relay.py PORT HOST:PORT SECONDS
"""

import collections
import selectors
import socket
import sys
import time

PIECE_BYTES = 1 << 18
# What may be under way in one direction: far more than a connection has unacknowledged.
FLIGHT_BYTES = 1 << 28


class Way:
    """One direction of one connection: what was read, and when it is due at the other end."""

    def __init__(self, source, target, delay):
        self.source, self.target, self.delay = source, target, delay
        self.flight, self.bytes, self.ended, self.blocked = collections.deque(), 0, False, False

    def read(self):
        try:
            piece = self.source.recv(PIECE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        self.ended = not piece
        self.bytes += len(piece)
        self.flight.append((time.monotonic() + self.delay, memoryview(piece)))

    def write(self, now):
        self.blocked = False
        while self.flight and self.flight[0][0] <= now:
            due, piece = self.flight.popleft()
            try:
                if not piece:
                    self.target.shutdown(socket.SHUT_WR)
                    continue
                sent = self.target.send(piece)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.flight.clear()
                self.ended = True
                return
            self.bytes -= sent
            if sent < len(piece):
                self.flight.appendleft((due, piece[sent:]))
                self.blocked = True
                return

    def wants_read(self):
        return not self.ended and self.bytes < FLIGHT_BYTES

    def done(self):
        return self.ended and not self.flight


def serve(port, address, delay):
    host, _, far = address.rpartition(":")
    listener = socket.create_server(("127.0.0.1", port), backlog=256)
    listener.setblocking(False)
    selector, pairs = selectors.DefaultSelector(), []
    selector.register(listener, selectors.EVENT_READ)
    while True:
        now = time.monotonic()
        ways = [way for pair in pairs for way in pair]
        dues = [way.flight[0][0] - now for way in ways if way.flight and not way.blocked]
        for key, _ in selector.select(max(0, min(dues)) if dues else None):
            if key.fileobj is listener:
                pairs.append(join(listener.accept()[0], (host, int(far)), delay))
                continue
            for way in ways:
                if way.source is key.fileobj and way.wants_read():
                    way.read()
        now = time.monotonic()
        for pair in list(pairs):
            for way in pair:
                way.write(now)
            if all(way.done() for way in pair):
                pairs.remove(pair)
                for way in pair:
                    register(selector, way.source, 0)
                    way.source.close()
                continue
            register_pair(selector, pair)


def join(near, address, delay):
    far = socket.create_connection(address)
    for end in (near, far):
        end.setblocking(False)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Way(near, far, delay), Way(far, near, delay)


def register_pair(selector, pair):
    there, back = pair
    for way, other in ((there, back), (back, there)):
        events = selectors.EVENT_READ if way.wants_read() else 0
        events |= selectors.EVENT_WRITE if other.blocked else 0
        register(selector, way.source, events)


def register(selector, end, events):
    known = selector.get_map().get(end)
    if known and known.events == events:
        return
    if known:
        selector.unregister(end)
    if events:
        selector.register(end, events)


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
