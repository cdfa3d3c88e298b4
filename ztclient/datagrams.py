"""UDP sockets of the overlay."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from ztclient import handoff, records, udp_options
from ztclient.errors import from_rpc
from ztclient.forms import numeric_ip
from ztclient.overlay_socket import OverlayAddress, overlay_address

if TYPE_CHECKING:
    from ztclient.channel import Control
    from ztclient.v1 import node_pb2 as pb

LIMITED_BROADCAST: Final = "255.255.255.255"
MREQN_BYTES: Final = 12
"""Of struct ip_mreqn, which has an interface's index."""

_DONTWAIT: Final = getattr(socket, "MSG_DONTWAIT", 0)


class DatagramSocket(socket.socket):
    """A UDP socket on the overlay, made by ``Node.open_udp``: a real descriptor, which is readable while a datagram
    waits. ``sendto``, ``recvfrom``, ``connect``, ``send``, ``recv`` and their kin have Python's meaning; as of Linux, a
    connected socket raises what ICMP reported (ConnectionRefusedError...), one that is not connected does not. The
    options of multicast (IP_ADD_MEMBERSHIP, IPV6_JOIN_GROUP...) and SO_BROADCAST have their meaning, too: the node is
    asked, and OSError says what it refuses. A group or broadcast that the network does not carry raises PermissionError
    from the next call after the one that sent to it.

    Beneath is a socket pair that carries each datagram with its address, so a foreign program or library that is given
    the bare descriptor cannot use it.
    """

    def __init__(self, records_socket: socket.socket, local: tuple[str, int], token: bytes) -> None:
        """Takes over what ``records_socket`` holds: one record, as ``ztclient.records`` has them, for each datagram.
        ``token``: what the node calls the socket."""
        family = socket.AF_INET6 if ":" in local[0] else socket.AF_INET
        super().__init__(family, socket.SOCK_DGRAM, 0, fileno=records_socket.detach())
        self._bound = overlay_address(*local)
        self._peer: tuple[str, int] | None = None
        self._token = token
        self._control: Callable[[], Control] | None = None
        self._options: dict[tuple[int, int], Any] = {}

    def ask_through(self, control: Callable[[], Control]) -> None:
        """Set options through the channel that ``control()`` gives."""
        self._control = control

    def setsockopt(self, *arguments: Any) -> None:
        """As the standard one. Raises OSError (EADDRINUSE: the group is joined; EPERM, EACCES: the network carries no
        multicast, no broadcasts...)."""
        option = arguments[0], arguments[1]
        if option not in udp_options.KNOWN:
            super().setsockopt(*arguments)
            return
        self._configure(option, arguments[2])
        if udp_options.KNOWN[option] not in ("join", "leave"):
            self._options[option] = arguments[2]

    def getsockopt(self, level: int, optname: int, *buflen: int) -> Any:
        """As the standard one."""
        if (level, optname) not in udp_options.KNOWN:
            return super().getsockopt(level, optname, *buflen)
        default = 1 if udp_options.KNOWN[level, optname] in ("multicast_hops", "multicast_loop") else 0
        value = self._options.get((level, optname), default)
        if buflen:
            return value if isinstance(value, bytes) else int(value).to_bytes(4, sys.byteorder)[: buflen[0]]
        return udp_options.integer(value)

    def _configure(self, option: tuple[int, int], value: Any) -> None:
        if self._control is None:
            raise OSError(errno.EOPNOTSUPP, "this socket has no way to ask its node")
        from ztclient import model
        from ztclient.v1 import node_pb2 as pb

        control = self._control()
        indexed = option[0] == socket.IPPROTO_IPV6 or (isinstance(value, bytes) and len(value) == MREQN_BYTES)
        networks = (
            [model.network(each) for each in control.entries(control.stub.ListNetworks, pb.ListNetworksRequest())]
            if indexed
            else []
        )
        request = udp_options.request(*option, value, networks)
        request.token = self._token
        control.call(control.stub.ConfigureUdp, request)

    def getsockname(self) -> OverlayAddress:
        """What was bound, on the overlay."""
        super().getsockname()  # a closed one raises
        return self._bound

    def getpeername(self) -> OverlayAddress:
        """Whom it is connected to. Raises OSError (ENOTCONN)."""
        return overlay_address(*self._connected())

    def connect(self, address: Any, /) -> None:
        """Speak to one remote only. Raises ValueError for what is no numeric address."""
        self._peer = numeric_ip(address[0]), int(address[1])

    def connect_ex(self, address: Any, /) -> int:
        """As ``connect``; 0."""
        self.connect(address)
        return 0

    def sendto(self, data: Any, *arguments: Any) -> int:
        """Send one datagram to ``address``, the last argument; its length. Raises OSError (EMSGSIZE, EINVAL; EACCES:
        a broadcast without SO_BROADCAST)."""
        address = arguments[-1]
        return self._send(data, numeric_ip(address[0]), int(address[1]), *arguments[:-1])

    def send(self, data: Any, flags: int = 0, /) -> int:
        """Send one datagram to the connected remote. Raises OSError (EDESTADDRREQ...)."""
        if self._peer is None:
            raise OSError(errno.EDESTADDRREQ, os.strerror(errno.EDESTADDRREQ))
        return self._send(data, *self._peer, flags)

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """As ``send``."""
        self.send(data, flags)

    def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, OverlayAddress]:
        """The next datagram, cut to ``bufsize``, and who sent it. Raises OSError (when it is connected, what ICMP
        reported; ENETDOWN when the network is gone), TimeoutError, BlockingIOError."""
        if bufsize < 0:
            raise ValueError("negative buffersize in recvfrom")
        while True:
            # No more than is wanted: the memory for the longest record costs as much as the call.
            record = super().recv(min(bufsize, records.MAX_DATAGRAM) + records.MAX_BESIDE, flags)
            if not record:
                raise OSError(errno.ENETDOWN, "the socket's network or its worker is gone")
            try:
                kind, ip, port, start = records.parse(record)
                number = 0 if kind == records.DATAGRAM else records.error_number(record, start)
            except ValueError:
                continue
            if kind == records.REFUSED:
                raise OSError(number, f"{os.strerror(number)}: nothing is sent to {ip} on this network")
            if kind == records.FAILURE:
                if self._peer == (ip, port):
                    raise OSError(number, os.strerror(number))
            elif self._peer in (None, (ip, port)):
                return record[start : start + bufsize], overlay_address(ip, port)
            if flags & socket.MSG_PEEK:
                super().recv(1, _DONTWAIT)  # not for us: it must not be peeked at again

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """The next datagram, cut to ``bufsize``; as ``recvfrom``."""
        return self.recvfrom(bufsize, flags)[0]

    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, OverlayAddress]:
        """The next datagram into ``buffer``: its length, as far as it fits, and who sent it."""
        view = memoryview(buffer).cast("B")
        data, address = self.recvfrom(nbytes or len(view), flags)
        view[: len(data)] = data
        return len(data), address

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """As ``recvfrom_into``, its length alone."""
        return self.recvfrom_into(buffer, nbytes, flags)[0]

    def dup(self) -> Any:
        """Another object for the same socket."""
        plain = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM, 0, fileno=socket.dup(self.fileno()))
        copied = DatagramSocket(plain, (self._bound[0], self._bound[1]), self._token)
        copied._control, copied._options = self._control, self._options
        copied._peer = self._peer
        copied.settimeout(self.gettimeout())
        return copied

    def _connected(self) -> tuple[str, int]:
        if self._peer is None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return self._peer

    def _send(self, data: Any, ip: str, port: int, flags: int = 0) -> int:
        if not 0 < port <= 65535:
            raise OSError(errno.EINVAL, f"{port} is not a port that can be sent to")
        if ip == LIMITED_BROADCAST and not self.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST):
            raise OSError(errno.EACCES, f"{os.strerror(errno.EACCES)}: set SO_BROADCAST first")
        payload = bytes(data)
        if len(payload) > records.MAX_DATAGRAM:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        super().send(records.header(records.DATAGRAM, ip, port) + payload, flags)
        return len(payload)


def open_udp(control: Control, request: pb.OpenUdpRequest) -> DatagramSocket:
    """A UDP socket as ``request`` asks for it. Raises OSError."""
    made = DatagramSocket(*open_records(control, request))
    made.ask_through(lambda: control)
    return made


def open_records(control: Control, request: pb.OpenUdpRequest) -> tuple[socket.socket, tuple[str, int], bytes]:
    """A UDP socket as the socket of records that ztclient.records reads and writes, what was bound, and the token that
    ConfigureUdp wants. Raises OSError."""
    if control.address.scheme == "unix":
        answer: pb.OpenUdpResponse = control.call(control.stub.OpenUdp, request)
        with contextlib.suppress(FileNotFoundError, PermissionError):  # in a container without the worker's socket
            plain = handoff.claim(answer.handoff_path, answer.token)
            return plain, (answer.local.ip, answer.local.port), answer.token
    return _by_stream(control, request)


def _by_stream(control: Control, request: pb.OpenUdpRequest) -> tuple[socket.socket, tuple[str, int], bytes]:
    if not hasattr(socket, "AF_UNIX"):
        raise OSError(errno.EAFNOSUPPORT, "UDP needs a Unix socket pair, which this system does not have")
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        pump = _Pump(control, request, far)
    except BaseException:
        near.close()
        raise
    return near, pump.local, pump.token


class _Pump:
    """One Datagrams call and the far end of a socket pair, which it takes over."""

    def __init__(self, control: Control, request: pb.OpenUdpRequest, far: socket.socket) -> None:
        import grpc

        self._far = far
        self._call = control.stub.Datagrams(self._requests(request), metadata=control.metadata)
        try:
            answer = next(self._call)
        except grpc.RpcError as error:
            far.close()
            raise from_rpc(error, str(control.address)) from None
        self.local = answer.opened.ip, answer.opened.port
        self.token = answer.token
        threading.Thread(target=self._download, name="ztclient-udp", daemon=True).start()

    def _requests(self, request: pb.OpenUdpRequest) -> Iterator[pb.DatagramsRequest]:
        from ztclient.v1 import node_pb2 as pb

        yield pb.DatagramsRequest(open=request)
        with contextlib.suppress(OSError):
            while record := self._far.recv(records.MAX_RECORD):
                _, ip, port, start = records.parse(record)
                yield pb.DatagramsRequest(
                    datagram=pb.Datagram(remote=pb.Endpoint(ip=ip, port=port), data=record[start:])
                )

    def _download(self) -> None:
        import grpc

        with contextlib.suppress(grpc.RpcError, OSError):
            for response in self._call:
                self._far.send(as_record(response))
        self._call.cancel()
        with contextlib.suppress(OSError):
            self._far.shutdown(socket.SHUT_RDWR)
        self._far.close()


def as_record(response: pb.DatagramsResponse) -> bytes:
    """A record of what the node sent."""
    if response.WhichOneof("message") == "failure":
        failed = response.failure
        kind = records.REFUSED if failed.refused else records.FAILURE
        number = getattr(errno, failed.reason, errno.EIO)
        return records.failure(failed.remote.ip, failed.remote.port, number, kind)
    datagram = response.datagram
    return records.header(records.DATAGRAM, datagram.remote.ip, datagram.remote.port) + datagram.data
