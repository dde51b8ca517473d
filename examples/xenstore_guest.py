"""Clients of xenstored, to import: a toolstack on the daemon's socket, guests of the simulated host.

    import xenstore_guest as xs

    store = xs.Client("/tmp/xenstore/socket")
    guest = xs.Host("/tmp/xenstore/sim").create()
    store.introduce(guest)
    guest.write("data/greeting", b"hello")

docs/SIM.md says what happens below. The errors of the store are `Refused`, with their name as text.
"""

import array
import collections
import mmap
import os
import select
import socket
import struct

# Operations used here; docs/SIM.md lists all.
DIRECTORY, READ, WATCH, TRANSACTION_START, TRANSACTION_END, INTRODUCE = 1, 2, 4, 6, 7, 8
WRITE, MKDIR, RM, SET_PERMS, WATCH_EVENT, ERROR = 11, 12, 13, 14, 15, 16

RING_BYTES = 1024
# Offsets in the page: two rings of bytes, four indices.
REQUESTS, REPLIES, REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD = 0, 1024, 2048, 2052, 2056, 2060
INDEX_MASK = 0xFFFFFFFF


class Refused(Exception):
    """The store refused a request."""


class Connection:
    """Requests and events over bytes that a subclass sends and receives."""

    def __init__(self):
        self.events = collections.deque()
        self._last = 0

    def request(self, operation, *words, data=b"", tx=0):
        """Sends strings, each ended by a NUL, and `data` behind them; returns the reply's payload."""
        payload = b"".join(str(word).encode() + b"\0" for word in words) + data
        self._last = (self._last + 1) & INDEX_MASK
        self._send(struct.pack("=IIII", operation, self._last, tx, len(payload)) + payload)
        while True:
            kind, reply = self._message()
            if kind == ERROR:
                raise Refused(reply.rstrip(b"\0").decode())
            if kind != WATCH_EVENT:
                return reply
            self._keep(reply)

    def event(self):
        """Returns the next event as (path, token); waits for it."""
        while not self.events:
            self._keep(self._message()[1])
        return self.events.popleft()

    def _keep(self, payload):
        path, token, _ = payload.split(b"\0")
        self.events.append((path.decode(), token.decode()))

    def _message(self):
        kind, _, _, length = struct.unpack("=IIII", self._receive(16))
        return kind, self._receive(length)

    def read(self, path, tx=0):
        return self.request(READ, path, tx=tx)

    def write(self, path, value=b"", tx=0):
        self.request(WRITE, path, data=value, tx=tx)

    def list(self, path, tx=0):
        return [name.decode() for name in self.request(DIRECTORY, path, tx=tx).split(b"\0")[:-1]]

    def remove(self, path, tx=0):
        self.request(RM, path, tx=tx)

    def watch(self, path, token):
        self.request(WATCH, path, token)

    def begin(self):
        """Begins a transaction; returns its number."""
        return int(self.request(TRANSACTION_START, "").rstrip(b"\0"))

    def end(self, tx, commit=True):
        self.request(TRANSACTION_END, "T" if commit else "F", tx=tx)


class Client(Connection):
    """The control domain's connection to the daemon's socket."""

    def __init__(self, path):
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)

    def _send(self, data):
        self._socket.sendall(data)

    def _receive(self, length):
        data = b""
        while len(data) < length:
            more = self._socket.recv(length - len(data))
            if not more:
                raise ConnectionError("the daemon closed the connection")
            data += more
        return data

    def introduce(self, guest):
        """Does a toolstack's part: a partition root that the guest owns, then INTRODUCE."""
        root = f"/local/domain/{guest.domid}"
        self.request(MKDIR, root)
        self.request(SET_PERMS, root, f"n{guest.domid}")
        self.request(INTRODUCE, guest.domid, 1, guest.port)


class Host:
    """The simulated host. The domains that it creates end with it."""

    def __init__(self, path):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)

    def command(self, line):
        """Sends a line; returns the words of the reply and the descriptors that came with it."""
        self._socket.sendall(line.encode() + b"\n")
        reply, fds = b"", array.array("i")
        while not reply.endswith(b"\n"):
            data, control, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(8))
            if not data:
                raise ConnectionError("the host closed the connection")
            reply += data
            for _, _, sent in control:
                fds.frombytes(sent)
        verdict, *words = reply.decode().split()
        if verdict != "ok":
            raise Refused(" ".join(words))
        return words, list(fds)

    def create(self, domid=""):
        """Returns a new domain, of a number of the host's choice if none is given."""
        (domid, port), (page, channel) = self.command(f"create {domid}".strip())
        return Guest(self, int(domid), int(port), page, channel)

    def destroy(self, guest):
        self.command(f"destroy {guest.domid}")


class Guest(Connection):
    """A domain of the simulated host, through its ring."""

    def __init__(self, host, domid, port, page_fd, channel_fd):
        super().__init__()
        # The connection to the host is kept: the domain ends with it.
        self.host, self.domid, self.port = host, domid, port
        self._page = mmap.mmap(page_fd, 4096)
        os.close(page_fd)
        # An index must be written by a single 32-bit store, as this view does. struct.pack_into clears the bytes
        # first, and the daemon gives up a ring that is inconsistent for a moment.
        self._words = memoryview(self._page).cast("I")
        self._channel = socket.socket(fileno=channel_fd)
        self._channel.setblocking(False)
        self._input = bytearray()

    def index(self, offset):
        return self._words[offset // 4]

    def set_index(self, offset, value):
        self._words[offset // 4] = value & INDEX_MASK

    def notify(self):
        try:
            self._channel.send(b"\1")
        except BlockingIOError:
            pass  # The channel is full: the daemon knows already.

    def _wait(self):
        select.select([self._channel], [], [])
        try:
            while self._channel.recv(16):
                pass
            raise ConnectionError("the domain is gone")
        except BlockingIOError:
            pass

    def _send(self, data):
        while data:
            prod = self.index(REQ_PROD)
            room = RING_BYTES - ((prod - self.index(REQ_CONS)) & INDEX_MASK)
            if room == 0:
                self._take()
                self._wait()
                continue
            for i, byte in enumerate(data[:room]):
                self._page[REQUESTS + (prod + i) % RING_BYTES] = byte
            self.set_index(REQ_PROD, prod + min(room, len(data)))
            self.notify()
            data = data[room:]

    def _take(self):
        """Moves what the daemon wrote out of the ring."""
        cons, prod = self.index(RSP_CONS), self.index(RSP_PROD)
        count = (prod - cons) & INDEX_MASK
        for i in range(count):
            self._input.append(self._page[REPLIES + (cons + i) % RING_BYTES])
        if count:
            self.set_index(RSP_CONS, cons + count)
            self.notify()

    def _receive(self, length):
        self._take()
        while len(self._input) < length:
            self._wait()
            self._take()
        data = bytes(self._input[:length])
        del self._input[:length]
        return data
