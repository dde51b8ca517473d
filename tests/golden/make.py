#!/usr/bin/env python3
"""Writes the golden streams, from xen.git's docs/designs/xenstore-migration.md, docs/STREAM.md and nothing
of src.

`*.stream` are the streams; `xsctl inspect` of each must print `*.txt` (tests/xsctl.rs).
"""
import ctypes
import pathlib
import struct

here = pathlib.Path(__file__).parent


class Hash128(ctypes.Structure):
    _fields_ = [("low64", ctypes.c_uint64), ("high64", ctypes.c_uint64)]


def xxh3_128(data):
    """The canonical form, most significant byte first. Needs Debian's package libxxhash0."""
    of = ctypes.CDLL("libxxhash.so.0").XXH3_128bits
    of.restype, of.argtypes = Hash128, [ctypes.c_char_p, ctypes.c_size_t]
    digest = of(data, len(data))
    return struct.pack(">QQ", digest.high64, digest.low64)


class Stream:
    def __init__(self, version, big):
        self.order = ">" if big else "<"
        self.version = version
        self.bytes = b"xenstore" + struct.pack(">II", version, int(big))

    def pack(self, fields, *values):
        return struct.pack(self.order + fields, *values)

    def record(self, kind, body, length=None):
        padded = body + bytes(-len(body) % 8)
        self.bytes += self.pack("II", kind, len(body) if length is None else length) + padded

    def end(self):
        self.record(0, b"")

    def digest(self):
        """The record of docs/STREAM.md, which is not in Xen's text."""
        self.record(0x80646967, xxh3_128(self.bytes))

    def global_data(self, socket, evtchn):
        self.record(1, self.pack("ii", socket, evtchn))

    def ring(self, conn, domid, tdomid, evtchn, begun=0, data=b"", out=b"", unique=None):
        fields = 0 if unique is None else 1
        body = self.pack("IHHHHIHHI", conn, 0, fields, domid, tdomid, evtchn, len(data), begun, len(out))
        body += data + out
        if unique is not None:
            body += bytes(-len(body) % 8) + self.pack("Q", unique)
        self.record(2, body)

    def socket(self, conn, fd):
        self.record(2, self.pack("IHHIIHHI", conn, 1, 0, fd, 0, 0, 0, 0))

    def watch(self, conn, path, token):
        path, token = path + b"\0", token + b"\0"
        self.record(3, self.pack("IHH", conn, len(path), len(token)) + path + token)

    def watch_extended(self, conn, path, token, depth):
        path, token = path + b"\0", token + b"\0"
        body = self.pack("IHHHH", conn, len(path), len(token), depth, 0) + path + token
        self.record(8, body)

    def watch_extended_of_c(self, conn, path, token):
        """C's daemon of August 2026: depth and pad missing, but counted, and padding counted too."""
        path, token = path + b"\0", token + b"\0"
        body = self.pack("IHH", conn, len(path), len(token)) + path + token
        self.record(8, body, length=-(-(len(body) + 4) // 8) * 8)

    def transaction(self, conn, tx):
        self.record(4, self.pack("II", conn, tx))

    def node(self, path, value, perms, conn=0, tx=0, access=0, count_padding=False):
        body = self.pack("IIHHHH", conn, tx, len(path) + 1, len(value), access, len(perms))
        for letter, flags, domid in perms:
            body += letter + self.pack("BH", flags, domid)
        body += path + b"\0" + value
        self.record(5, body, length=-(-len(body) // 8) * 8 if count_padding else None)

    def quotas(self, kind, head, quotas):
        body = head + b"".join(self.pack("I", value) for _, value in quotas)
        self.record(kind, body + b"".join(name + b"\0" for name, _ in quotas))

    def global_quota(self, per_domain, for_all):
        self.quotas(6, self.pack("HH", len(per_domain), len(for_all)), per_domain + for_all)

    def domain(self, domid, features, quotas):
        self.quotas(7, self.pack("HHI", domid, len(quotas), features), quotas)

    def write(self, name):
        (here / (name + ".stream")).write_bytes(self.bytes)


NOBODY = 0x7FF4


def every_record(version, big, name, digest=False):
    s = Stream(version, big)
    s.global_data(-1, 9)
    s.global_quota([(b"nodes", 1000), (b"memory", 2621440)], [(b"soft-memory", 2097152)])
    s.domain(5, 0xF if version > 1 else 0, [(b"nodes", 2000), (b"watches", 64)])
    s.domain(6, 3 if version > 1 else 0, [])
    s.ring(1, 5, NOBODY, 7, begun=4, data=b"\x02\0\0\0half", out=b"rest\x0f\0\0\0", unique=0x1122334455667788)
    s.ring(2, 6, 5, 8)
    s.socket(3, 11)
    for path, value, perms in [
        (b"/", b"", [(b"n", 0, 0)]),
        (b"/local", b"", [(b"n", 0, 0)]),
        (b"/local/domain", b"", [(b"n", 0, 0)]),
        (b"/local/domain/5", b"", [(b"n", 0, 0), (b"r", 0, 5)]),
        (b"/local/domain/5/name", b"guest \"five\"\n\0\xff", [(b"n", 0, 0), (b"r", 0, 5)]),
        (b"/local/domain/5/data", b"", [(b"n", 0, 5), (b"b", 1, 9), (b"w", 0, 6)]),
        (b"/local/domain/6", b"", [(b"n", 0, 6)]),
        (b"@releaseDomain", b"", [(b"n", 0, 0), (b"r", 0, 0x7FF5)]),
    ]:
        s.node(path, value, perms)
    s.watch(1, b"/local/domain/0", b"token with\ta tab")
    s.watch(1, b"device", b"")
    s.watch(3, b"@introduceDomain", b"t")
    if version > 1:
        s.watch_extended(2, b"@releaseDomain", b"deep", 1)
        s.watch_extended(2, b"/", b"all", 0xFFFF)
    s.transaction(1, 33)
    s.node(b"/local/domain/5/data", b"1", [(b"n", 0, 5)], conn=1, tx=33, access=2)
    s.node(b"/local/domain/5/name", b"", [], conn=1, tx=33, access=0)
    s.record(99, b"of a later version")
    if digest:
        s.digest()
    s.end()
    s.write(name)


every_record(1, False, "v1-little")
every_record(1, True, "v1-big")
every_record(2, False, "v2-little")
every_record(2, True, "v2-big")
every_record(1, True, "v1-big-digest", digest=True)
every_record(2, False, "v2-little-digest", digest=True)

s = Stream(2, False)
s.ring(1, 5, NOBODY, 7)
s.node(b"/", b"", [(b"n", 0, 0)], count_padding=True)
s.node(b"/a", b"12345", [(b"n", 0, 0)], count_padding=True)
for length in range(8):
    s.watch_extended_of_c(1, b"/a/b", b"1234567"[:length])
s.end()
s.write("c-defects")
