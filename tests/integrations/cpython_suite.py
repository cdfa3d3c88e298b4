"""CPython's own tests with ztclient.socket in the place of the socket module: what they bind is bound on one node of an
overlay, what they connect to is dialled from another. Loopback addresses, which the tests name, stand for the first
node's managed address.

    python -m tests.integrations.cpython_suite STATE_OF_SERVER STATE_OF_CLIENT test_httplib ...

The last line says how many were run, failed and were left out; exit 1 if any failed.
"""

from __future__ import annotations

import socket as standard
import sys
from typing import TYPE_CHECKING, Any, Final

import ztclient.socket

import ztclient
from ztclient import sockets

if TYPE_CHECKING:
    import unittest

LEFT_OUT: Final = {
    "ource_address": "the source port on the overlay cannot be chosen",
    "SourceAddressTest": "the source port on the overlay cannot be chosen",
    "TestIPv6Environment": "the network of the test has no IPv6 addresses",
    "TestFTPClass.test_makeport": "the client listens at its own address, and listeners are the other node's here",
    "StreamTests.test_unhandled_exceptions": "expects a connection to be accepted before its client has gone",
    "test_unclosed_resource_warnings": "counts every ResourceWarning, and gets those of the tests before it too",
    "TestFTPClass.test_abort": "urgent data (MSG_OOB) is not carried",
}
"""Parts of the ids of tests that are not run, each with the reason."""


def put_in_place(server: ztclient.Node, client: ztclient.Node) -> list[str]:
    """Make ``import socket`` give the overlay's; the address that stands for loopback goes into the list. Nothing may
    have imported the standard module yet but ztclient."""
    here: list[str] = []

    def placed(address: Any) -> Any:
        host = address[0]
        return (here[0], *address[1:]) if host in ("localhost", "127.0.0.1", standard.gethostname()) else address

    class OverlaySocket(sockets.socket):
        """Binds on the server's node and connects from the client's."""

        node = staticmethod(lambda: client)

        def __new__(cls, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None) -> Any:
            if type != -1 and type & 0xF == standard.SOCK_DGRAM and family != standard.AF_UNIX and fileno is None:
                return OverlayUdp(family, type, proto)
            return super().__new__(cls, family, type, proto, fileno)

        def bind(self, address: Any, /) -> None:
            if self._overlay:
                self.node = lambda: server
                address = placed(address)
            super().bind(address)

        def connect(self, address: Any, /) -> None:
            super().connect(placed(address) if self._overlay else address)

    class OverlayUdp(sockets.UdpSocket):
        """As OverlaySocket; what is not bound is the client's."""

        node = staticmethod(lambda: client)

        def bind(self, address: Any, /) -> None:
            if address[0]:
                self.node = lambda: server
            super().bind(placed(address))

    def getaddrinfo(host: Any, *rest: Any, **named: Any) -> Any:
        return sockets.addresses_of(lambda: client, placed((host,))[0], *rest, **named)

    replace_names(OverlaySocket, getaddrinfo)
    early = [name for name in ("asyncio", "http.client", "ssl", "socketserver") if name in sys.modules]
    if early:
        raise RuntimeError(f"{early} have the standard module already")
    sys.modules["socket"] = ztclient.socket
    here.append(next(ip for ip in server.ips() if ":" not in ip))
    return here


def replace_names(kind: type[sockets.socket], getaddrinfo: Any) -> None:
    """Give the module of the overlay these in place of its own."""

    def create_connection(
        address: Any, timeout: Any = sockets.DEFAULT_TIMEOUT, source_address: Any = None, **_: Any
    ) -> Any:
        connected = kind()
        try:
            if timeout is not sockets.DEFAULT_TIMEOUT:
                connected.settimeout(timeout)
            connected.connect(getaddrinfo(*address, standard.AF_INET, standard.SOCK_STREAM)[0][4])
        except BaseException:
            connected.close()
            raise
        return connected

    def create_server(address: Any, *, family: int = standard.AF_INET, backlog: int | None = None, **_: Any) -> Any:
        listening = kind(family, standard.SOCK_STREAM)
        listening.bind(address)
        listening.listen(128 if backlog is None else backlog)
        return listening

    names = {
        "socket": kind,
        "SocketType": kind,
        "getaddrinfo": getaddrinfo,
        "create_connection": create_connection,
        "create_server": create_server,
        "gethostbyname": lambda name: str(getaddrinfo(name, 0, standard.AF_INET)[0][4][0]),
        "getfqdn": lambda name="": standard.gethostname(),
    }
    for name, value in names.items():
        setattr(ztclient.socket, name, value)


def chosen(suite: unittest.TestSuite, left_out: dict[str, str]) -> unittest.TestSuite:
    """The tests of a suite but those that are left out, whose reasons are noted."""
    import unittest

    kept = unittest.TestSuite()
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            kept.addTest(chosen(test, left_out))
        else:
            reason = next((why for part, why in LEFT_OUT.items() if part in test.id()), None)
            if reason is None:
                kept.addTest(test)
            else:
                left_out[test.id()] = reason
    return kept


def main(server: str, client: str, *names: str) -> int:
    here = put_in_place(ztclient.Node(state=server), ztclient.Node(state=client))[0]
    import unittest

    from test import support
    from test.support import socket_helper

    socket_helper.HOST = socket_helper.HOSTv4 = here
    support.verbose = 0
    left_out: dict[str, str] = {}
    suite = unittest.TestSuite()
    for name in names:
        suite.addTest(chosen(unittest.defaultTestLoader.loadTestsFromName(f"test.{name}"), left_out))
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    failed = len(result.failures) + len(result.errors)
    for test, reason in left_out.items():
        print(f"left out: {test}: {reason}")
    print(f"{result.testsRun} run, {failed} failed, {len(result.skipped)} skipped, {len(left_out)} left out")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
