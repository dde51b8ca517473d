"""Everything that examples/xenstore_guest.py has, against a daemon in the directory argv[1]."""
import sys

import xenstore_guest as xs

store = xs.Client(sys.argv[1] + "/socket")
host = xs.Host(sys.argv[1] + "/sim")
guest = host.create(9)
assert (guest.domid, guest.port) == (9, 1)
store.introduce(guest)


def refused(call, *arguments):
    try:
        call(*arguments)
    except xs.Refused as error:
        return str(error)
    raise AssertionError("not refused")


# Values longer than the ring, and more messages than it has room for.
value = bytes(range(256)) * 7
for i in range(50):
    guest.write(f"data/{i}", value + bytes([i]))
    assert guest.read(f"data/{i}") == value + bytes([i])
assert guest.list("data") == store.list("/local/domain/9/data")
assert len(guest.list("data")) == 50
guest.remove("data")
assert refused(guest.read, "data") == "ENOENT"
assert refused(guest.write, "/tool/x", b"") == "EACCES"

# Events come before, between and after replies.
guest.watch("w", "token")
assert guest.event() == ("w", "token")
store.watch("/local/domain/9", "t")
assert store.event() == ("/local/domain/9", "t")
for i in range(200):
    store.write(f"/local/domain/9/w/{i}", b"")
assert [guest.event() for _ in range(200)] == [(f"w/{i}", "token") for i in range(200)]

# Transactions.
tx = guest.begin()
guest.write("w/0", b"1", tx)
assert guest.read("w/0") == b"" and guest.read("w/0", tx) == b"1"
store.write("/local/domain/9/w/0", b"2")
guest.end(tx, commit=False)
tx = guest.begin()
guest.read("w/0", tx)
guest.write("w/1", b"1", tx)
guest.end(tx)
assert store.read("/local/domain/9/w/1") == b"1"

# The host, and a domain's end.
assert host.command("list")[0] == ["0:running", "9:running"]
assert refused(host.create, 9).startswith("EEXIST")
host.destroy(guest)
while True:
    try:
        guest.read("w/0")
    except xs.Refused:
        pass  # The daemon removes the nodes before it closes the channel.
    except OSError:
        break
