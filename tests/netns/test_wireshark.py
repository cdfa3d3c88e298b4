"""What Wireshark thinks of a capture of everything that our stack says: nothing malformed, no bad checksum."""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from tests.fault_injector import Faults
from tests.netns import tapharness
from tests.netns.kernel_pairs import transfer_down, transfer_up, until
from tests.netns.tapharness import KERNEL, NOBODY4, harness
from ztnode.netstack.echo import EchoReply, EchoSocket

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(tapharness.unavailable() is not None, reason=str(tapharness.unavailable())),
    pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed"),
]

PROTOCOLS = ("ip", "tcp", "udp", "icmp", "icmpv6")
CHECK = [
    option
    for setting in ("tcp.check_checksum", "ip.check_checksum", "udp.check_checksum")
    for option in ("-o", f"{setting}:TRUE")
]
# Payloads are random: what Wireshark guesses that they mean is none of our business.
CHECK += ["-o", "tcp.desegment_tcp_streams:FALSE", "-d", "tcp.port==7000,data", "-d", "tcp.port==7100,data"]
BAD = " || ".join(["_ws.malformed", *(f'{name}.checksum.status == "Bad"' for name in PROTOCOLS)])
GOOD = " || ".join(f'{name}.checksum.status == "Good"' for name in PROTOCOLS if name != "ip")


def frames(capture: Path, display_filter: str) -> list[str]:
    """One line for each frame that the filter lets through."""
    command = ["tshark", "-n", "-r", str(capture), *CHECK, "-Y", display_filter]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def _all_came(answers: list[EchoReply], damage: bool, ping: EchoSocket) -> bool:
    answers += ping.replies()
    return len(answers) == 4 or damage


def record(capture: Path, faults: Faults) -> None:
    """Some of everything over the wire."""
    damage = bool(faults.corrupt)  # then not every answer comes
    with harness(faults=(faults, faults), generator=random.Random("wireshark"), capture=capture) as net:
        for version in (4, 6):
            transfer_up(net, 200_000, version)
            transfer_down(net, 200_000, version)
            ping = net.stack.ping(KERNEL[version], time.monotonic())
            udp = net.stack.udp()
            for size in (0, 1, 1000, 5000):
                ping.send(bytes(size), time.monotonic())
                udp.sendto(bytes(size), (KERNEL[version], 9), time.monotonic())  # comes back as port unreachable
            family = socket.AF_INET if version == 4 else socket.AF_INET6
            theirs = net.namespace.run(partial(socket.socket, family, socket.SOCK_DGRAM))
            theirs.sendto(b"nobody listens", (tapharness.OURS[version], 9))  # we say port unreachable
            answers: list[EchoReply] = []
            until(net, ping, partial(_all_came, answers, damage), 5)
            theirs.close()
        net.stack.connect(NOBODY4, 80, time.monotonic())  # ARP that nobody answers
        end = time.monotonic() + 0.3
        net.run(lambda: time.monotonic() > end)


def test_no_malformed_packet_and_no_bad_checksum(tmp_path: Path) -> None:
    capture = tmp_path / "run.pcapng"
    record(capture, Faults(reorder=0.05, duplicate=0.05))
    assert frames(capture, BAD) == []
    # That tshark did look: most frames have a checksum that it calls good.
    assert len(frames(capture, GOOD)) > 500
    for protocol in ("arp", "icmp.type == 3", "icmpv6.type == 1", "icmpv6.nd.ns.target_address", "ip.fragment", "tcp"):
        assert frames(capture, protocol), protocol


def test_tshark_does_see_damage(tmp_path: Path) -> None:
    """The control: with bits flipped on the wire the same filter finds them."""
    capture = tmp_path / "bad.pcapng"
    record(capture, Faults(corrupt=0.05))
    assert frames(capture, BAD)
