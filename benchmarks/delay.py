"""A network namespace behind a delay, for kernels without netem: two TUN devices and a process that copies packets.

Each packet arrives `delay_ms` after it was sent, so that TCP behaves as on a long connection, with handshake and slow
start. Packets are copied in the form for hardware that splits them (TSO): up to 64 KiB, with a header that says so.
Source: Linux, Documentation/networking/tuntap.rst; linux/if_tun.h; linux/virtio_net.h.

    python delay.py NAMESPACE MILLISECONDS     (root; prints "ready", ends when its stdin ends)
"""

from __future__ import annotations

import collections
import fcntl
import os
import select
import struct
import subprocess
import sys
import time

IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
TUN_F_CSUM, TUN_F_TSO4 = 0x01, 0x02
LARGEST = (64 << 10) + 10


def device(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI | IFF_VNET_HDR))
    fcntl.ioctl(descriptor, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)
    return descriptor


def connect(namespace: str, near: str, far: str) -> None:
    """Configure 10.213.7.1 on the near side and 10.213.7.2 inside the namespace."""
    for command in (
        f"ip link set {far} netns {namespace}",
        f"ip addr add 10.213.7.1 peer 10.213.7.2 dev {near}",
        f"ip link set {near} txqueuelen 100000 up",
        f"ip -n {namespace} addr add 10.213.7.2 peer 10.213.7.1 dev {far}",
        f"ip -n {namespace} link set {far} txqueuelen 100000 up",
    ):
        subprocess.run(command.split(), check=True)


def carry(one: int, other: int, delay_s: float) -> None:
    """Copy packets in both directions until standard input ends."""
    late: collections.deque[tuple[float, int, bytes]] = collections.deque()
    while True:
        left = max(0.0, late[0][0] - time.monotonic()) if late else None
        ready, _, _ = select.select([one, other, 0], [], [], left)
        if 0 in ready:
            return
        now = time.monotonic()
        while late and late[0][0] <= now:
            _, there, packet = late.popleft()
            os.write(there, packet)
        for here, there in ((one, other), (other, one)):
            if here in ready:
                late.append((now + delay_s, there, os.read(here, LARGEST)))


if __name__ == "__main__":
    namespace, delay_ms = sys.argv[1:]
    near, far = f"d{os.getpid()}a", f"d{os.getpid()}b"
    ends = device(near), device(far)
    connect(namespace, near, far)
    print("ready", flush=True)
    carry(*ends, float(delay_ms) / 1000)
