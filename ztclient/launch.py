"""A node that lives as long as the programs that use it: ``ztclient.run``.

The node is a child process, ``ztnode serve --until-eof``, whose standard input is a named pipe in its state directory.
Every program that uses the node holds that pipe open for writing; the kernel closes it with the program, however it
ends, and the node ends with the last one. Starting and ending go on under a lock, so that of two programs that come at
the same moment one starts the node and the other finds it.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Final

from ztclient import discovery
from ztclient.errors import JoinTimeoutError, NodeUnavailableError
from ztclient.forms import network_id

if TYPE_CHECKING:
    from ztclient import aio
    from ztclient.model import Network
    from ztclient.node import Node

PIPE_NAME: Final = "users.pipe"
LOCK_NAME: Final = "users.lock"
START_SECONDS: Final = 60.0
"""For a node to come up; making an identity takes seconds, on a crowded machine many."""
STOP_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.01
LAST_WORDS: Final = 2000
"""Characters of its log that are shown of a node that did not come up."""

Steps = Generator[float, None, None]
"""What takes time, without waiting: yields the seconds to wait before the next step, so that a thread and an event loop
can both go through it."""


def run(
    nwid: str | int,
    state: str | os.PathLike[str] | None = None,
    planet: str | os.PathLike[str] | None = None,
    wait: float = 60.0,
) -> Run:
    """A node of one's own for the time of a ``with`` (gives a ``Node``) or an ``async with`` (an ``aio.Node``).

    It is started, joins ``nwid`` and is waited for, ``wait`` seconds at most. On a terminal stderr says what is waited
    for, with the address that the network's administrator must authorize. ``state``: a directory that keeps the node's
    identity, so that it is authorized once; programs that name the same one share one node, also one that
    ``ztnode serve`` runs there. None: a new identity each time, of which nothing is left. ``planet``: a file with roots
    other than ZeroTier's own; left out, ZTNODE_PLANET counts. A node that runs already keeps its own.

    Entering it raises NodeUnavailableError where ztnode is not installed or the node does not come up, JoinTimeoutError
    (it names the address to authorize), Error where there is no such network; ValueError here for a malformed id.
    """
    return Run(network_id(nwid), state, planet, wait)


class Run:
    """See ``run``. Entered and left once."""

    def __init__(
        self, nwid: str, state: str | os.PathLike[str] | None, planet: str | os.PathLike[str] | None, wait: float
    ) -> None:
        self._nwid = nwid
        self._kept = None if state is None else Path(state).expanduser().absolute()
        self._planet = planet
        self._wait = wait
        self._state = Path()
        self._lease: int | None = None
        self._shared = False
        self._child: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    def __enter__(self) -> Node:
        """The node, joined."""
        for again in _attempts():
            try:
                _go(self._reach())
                from ztclient.node import Node

                node = Node(state=self._state)
                with self._progress() as progress:
                    progress.address = node.status().address
                    node.join(self._nwid, self._wait, on_change=progress.show)
                return node
            except BaseException as error:
                shared = self._shared
                self.close()
                if not (again and shared and isinstance(error, NodeUnavailableError)):
                    raise
        raise AssertionError("the last attempt raises")

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> aio.Node:
        """The node, joined."""
        from ztclient import aio

        for again in _attempts():
            try:
                await _go_async(self._reach())
                node = aio.Node(state=self._state)
                with self._progress() as progress:
                    progress.address = (await node.status()).address
                    await node.join(self._nwid, self._wait, on_change=progress.show)
                return node
            except BaseException as error:
                shared = self._shared
                await _go_async(self._leave())
                if not (again and shared and isinstance(error, NodeUnavailableError)):
                    raise
        raise AssertionError("the last attempt raises")

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await _go_async(self._leave())

    def close(self) -> None:
        """Need the node no longer; it ends, and is waited for, where nobody else does. Happens once."""
        _go(self._leave())

    def _reach(self) -> Steps:
        """Start the node, or share the one that runs, until its control socket answers. Raises OSError."""
        discovery.require_unix_sockets("a node of one's own")
        if self._kept is None:
            self._state = Path(tempfile.mkdtemp(prefix="ztnode-"))
        else:
            self._state = self._kept
            self._state.mkdir(mode=0o700, parents=True, exist_ok=True)
        control = str(discovery.socket_path(self._state))
        with _locked(self._state) as lock:
            yield from lock
            if _answers(control):
                self._lease = self._share()
                self._shared = True
                return
            yield from self._gone()
            self._shared = False
            self._start()
            _load()
            assert self._child is not None
            deadline = time.monotonic() + START_SECONDS
            while not _answers(control):
                if self._child.poll() is not None:
                    raise NodeUnavailableError(
                        errno.ECONNREFUSED, f"the node ended with code {self._child.returncode}: {self._last_words()}"
                    )
                if time.monotonic() >= deadline:
                    raise NodeUnavailableError(
                        errno.ETIMEDOUT, f"the node is not up after {START_SECONDS:g} s: {self._last_words()}"
                    )
                yield POLL_SECONDS

    def _share(self) -> int | None:
        """A place among the users of the node that runs; None where it does not count them, as ``ztnode serve`` by
        itself does not."""
        try:
            pipe = os.open(self._state / PIPE_NAME, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENXIO):
                return None
            raise
        _users.add(self)
        return pipe

    def _start(self) -> None:
        command = _command()
        pipe = self._state / PIPE_NAME
        with contextlib.suppress(FileNotFoundError):
            pipe.unlink()
        os.mkfifo(pipe, 0o600)
        # Open for reading first: opening a pipe for writing waits for a reader.
        reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self._lease = os.open(pipe, os.O_WRONLY | os.O_CLOEXEC)
            _users.add(self)
            os.set_blocking(reading, True)
            self._log = tempfile.TemporaryFile()  # noqa: SIM115 (it is read should the node not come up)
            # Isolated: what the environment says of a node is meant for the user's own.
            serve = ["serve", "--isolated", "--unlisted", "--until-eof", "--log-level", "warning"]
            serve += ["--state", str(self._state)]
            if self._kept is None:
                serve += ["--ephemeral", "--port", "0"]
            if planet := self._planet or os.environ.get("ZTNODE_PLANET"):
                serve += ["--planet", os.fspath(planet)]
            # A session of its own: Ctrl-C is for the program, which may need the node while it cleans up.
            self._child = subprocess.Popen(
                [*command, *serve], stdin=reading, stdout=self._log, stderr=self._log, start_new_session=True
            )
        finally:
            os.close(reading)

    def _leave(self) -> Steps:
        """Stop using the node; where nobody else does, wait until it has ended."""
        if self._lease is not None and self._state.is_dir():
            with _locked(self._state) as lock:
                yield from lock
                # Nobody shares a new identity, but a child that was forked this moment may not have closed its end.
                if self._close_lease() or self._kept is None:
                    yield from self._end()
        self._close_lease()
        if self._child is not None and self._child.returncode is None:
            _left_to_others.append(self._child)
            self._child = None
        if self._log is not None:
            self._log.close()
        if self._kept is None and self._state != Path():
            shutil.rmtree(self._state, ignore_errors=True)  # a node that was killed did not do it

    def _close_lease(self) -> bool:
        """Whether we were the last."""
        if self._lease is None:
            return False
        lease, self._lease = self._lease, None
        _users.discard(self)
        try:
            reading = os.open(self._state / PIPE_NAME, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            os.close(lease)
            return True
        try:
            os.close(lease)
            return os.read(reading, 1) == b""
        except BlockingIOError:
            return False  # somebody else could still write
        finally:
            os.close(reading)

    def _end(self) -> Steps:
        """Wait for the end of the node; one of ours is helped along."""
        if self._child is None:
            yield from self._gone()
            return
        for last in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + STOP_SECONDS
            while self._child.poll() is None and time.monotonic() < deadline:
                yield POLL_SECONDS
            if self._child.returncode is not None:
                return
            self._child.send_signal(last)
        self._child.wait()

    def _gone(self) -> Steps:
        """Wait until the process that read the pipe is gone: a node that is ending still has its state."""
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            try:
                os.close(os.open(self._state / PIPE_NAME, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            except OSError:
                return
            yield POLL_SECONDS

    def _after_fork(self) -> None:
        """In a child: the node must not wait for it."""
        if self._lease is not None:
            os.close(self._lease)
            self._lease = None
        self._child = None

    def _last_words(self) -> str:
        if self._log is None:
            return ""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-LAST_WORDS:].strip() or "it said nothing"

    @contextlib.contextmanager
    def _progress(self) -> Iterator[WaitNotice]:
        """Whoever runs out of time learns which address to authorize."""
        with WaitNotice(self._nwid) as progress:
            try:
                yield progress
            except JoinTimeoutError as error:
                if self._kept is not None:
                    raise
                hint = f"{progress.address} is gone again: give a state directory to keep the address"
                raise JoinTimeoutError(error.errno, f"{error}; {hint}") from None


class WaitNotice:
    """One line on stderr that says what is waited for, on a terminal only. A context manager."""

    def __init__(self, nwid: str) -> None:
        self.address = ""
        self._nwid = nwid
        self._shown = False

    def show(self, network: Network) -> None:
        """Where joining stands."""
        if sys.stderr.isatty():
            self._shown = True
            said = "".join(each if each.isprintable() else "?" for each in network.detail or network.state)
            print(f"\r\x1b[2K{self._nwid}, node {self.address}: {said}", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> WaitNotice:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._shown:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)


def _command() -> list[str]:
    """What starts ztnode. Raises NodeUnavailableError where it is not installed."""
    if importlib.util.find_spec("ztnode") is not None:
        return [sys.executable, "-m", "ztnode"]
    if (found := shutil.which("ztnode")) is not None:
        return [found]
    raise NodeUnavailableError(
        errno.ENOENT, "ztclient.run starts a node, and ztnode is not installed here: pip install ztnode"
    )


def _load() -> None:
    """Load what speaks to a node: beside its start, which takes longer, on another core."""
    for name in ("ztclient.node", "ztclient.v1.node_pb2_grpc"):
        importlib.import_module(name)


def _answers(control: str) -> bool:
    """Whether somebody listens on a Unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(control)
        except BlockingIOError:
            return True  # its queue is full
        except OSError:
            return False
        return True


@contextlib.contextmanager
def _locked(state: Path) -> Iterator[Steps]:
    """The lock under which a node of ``state`` is started and ended; held once the steps are through."""
    import fcntl

    descriptor = os.open(state / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def acquire() -> Steps:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                yield POLL_SECONDS

    try:
        yield acquire()
    finally:
        os.close(descriptor)


def _attempts() -> Iterator[bool]:
    """Whether there is another: a node that was shared may just have lost its last user, and be ending."""
    yield from (True, True, False)


def _go(steps: Steps) -> None:
    for seconds in steps:
        time.sleep(seconds)


async def _go_async(steps: Steps) -> None:
    import asyncio

    for seconds in steps:
        await asyncio.sleep(seconds)


_users: set[Run] = set()
"""Those that hold a pipe open."""
_left_to_others: list[subprocess.Popen[bytes]] = []
"""Children that other programs still use: they are not ours to wait for, and not to be complained about."""


def _forget_in_child() -> None:
    for user in list(_users):
        user._after_fork()
    _users.clear()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_forget_in_child)
