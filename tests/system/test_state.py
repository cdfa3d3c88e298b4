"""What fails on the host itself: processes that die, disks that are full, damaged state, signals at any moment."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

import ztclient
from tests.system.harness import PORT, Overlay, content, ipv4, until
from tests.system.rogue import hello, made_up
from ztclient.v1 import node_pb2 as pb
from ztclient.v1 import node_pb2_grpc as rpc
from ztnode import worldtool
from ztnode.embedded import EmbeddedMember
from ztnode.plugins.stores import FileStore
from ztnode.wire.identity import Identity

VECTORS = Path(__file__).parents[1] / "vectors" / "vl1"
STOP_SECONDS = 2.0
"""All that a node may take to end, in every phase."""
GRACE = 8.0
"""Seconds more on a machine where other things run."""
NWID = "9ad07d01093a69e3"
OTHER_NWID = "8056c2e21c000001"


@pytest.fixture(scope="module")
def identity() -> Identity:
    """An identity that zerotier-idtool made."""
    made = json.loads((VECTORS / "identities.json").read_text())["identities"][0]
    return Identity.parse_text(made["secret"])


@pytest.fixture(scope="module")
def planet(identity: Identity, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A planet whose root nobody is."""
    path = tmp_path_factory.mktemp("planet") / "planet"
    root = worldtool.parse_root(identity.build_text(), ["127.0.0.1/1"])
    path.write_bytes(worldtool.create_world([root], worldtool.WorldSecret.generate(os.urandom), 1))
    return path


@pytest.fixture
def state(tmp_path: Path, identity: Identity, planet: Path) -> Path:
    """A state directory as a node leaves it."""
    home = tmp_path / "st" / "zerotier"
    for directory in ("networks.d", "moons.d", "controller.d/network"):
        (home / directory).mkdir(parents=True)
    (home / "identity.secret").write_text(identity.build_text(include_secret=True))
    (home / "identity.secret").chmod(0o600)
    (home / "identity.public").write_text(identity.build_text())
    (home / "planet").write_bytes(planet.read_bytes())
    (home / f"networks.d/{NWID}.conf").write_bytes(b"\n")
    return tmp_path / "st"


def command(state: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "ztnode", "serve", "--unlisted", "--port", "0", "--state", str(state), *arguments]


_started: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def none_left_behind() -> Iterator[None]:
    """Whatever a test finds wrong, no node of its own goes on after it."""
    yield
    while _started:
        process = _started.pop()
        if process.poll() is None:
            process.kill()
            process.communicate()


def run(whole: Sequence[str]) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    process = subprocess.Popen(whole, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)
    _started.append(process)
    return process


def start(state: Path, *arguments: str, wrap: Sequence[str] = ()) -> subprocess.Popen[str]:
    return run([*wrap, *command(state, *arguments)])


def wait_ready(process: subprocess.Popen[str], state: Path, seconds: float = 60.0) -> ztclient.Node:
    node = ztclient.Node(state=state)
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(ztclient.Error):
            if node.status().workers[0].pid:
                return node
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def tree(directory: Path) -> dict[str, bytes]:
    """Every file below, by name."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def family(pid: int) -> list[int]:
    """A process's children and theirs."""
    text = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    return [each for child in map(int, text.split()) for each in (child, *family(child))]


def gone(pids: Sequence[int]) -> bool:
    return not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


# Damaged state

NETWORK = f"controller.d/network/{NWID}.json"


def home_becomes_a_file(state: Path) -> None:
    shutil.rmtree(state / "zerotier")
    write("zerotier", b"x")(state)


def write(name: str, data: bytes) -> Callable[[Path], None]:
    def damage(state: Path) -> None:
        path = state / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return damage


def truncate(name: str, share: float) -> Callable[[Path], None]:
    def damage(state: Path) -> None:
        data = (state / name).read_bytes()
        (state / name).write_bytes(data[: int(len(data) * share)])

    return damage


def directory(name: str) -> Callable[[Path], None]:
    def damage(state: Path) -> None:
        (state / name).unlink(missing_ok=True)
        (state / name).mkdir(parents=True)

    return damage


def remove(name: str) -> Callable[[Path], None]:
    return lambda state: (state / name).unlink()


def other_key(state: Path) -> None:
    path = state / "zerotier/identity.secret"
    path.write_text(path.read_text()[:-6] + "abcdef")


DAMAGES: list[tuple[str, Callable[[Path], None], tuple[str, ...], str]] = [
    ("empty secret", write("zerotier/identity.secret", b""), (), "identity.secret"),
    ("rubbish secret", write("zerotier/identity.secret", b"\xff\0rubbish"), (), "identity.secret"),
    ("half a secret", truncate("zerotier/identity.secret", 0.7), (), "identity.secret"),
    ("another's secret", other_key, (), "identity.secret"),
    ("huge secret", write("zerotier/identity.secret", bytes(2 << 20)), (), "identity.secret"),
    ("secret a directory", directory("zerotier/identity.secret"), (), "identity.secret"),
    ("no secret", remove("zerotier/identity.secret"), (), "identity.secret"),
    ("rubbish planet", write("zerotier/planet", b"rubbish"), (), "planet"),
    ("half a planet", truncate("zerotier/planet", 0.5), (), "planet"),
    ("planet a directory", directory("zerotier/planet"), (), "planet"),
    ("rubbish moon", write("zerotier/moons.d/000000deadbeef00.moon", b"\x01rubbish"), (), "deadbeef00.moon"),
    ("rubbish network", write(f"zerotier/networks.d/{NWID}.conf", b"\xff\xfe" * 300), (), NWID),
    ("another network", write(f"zerotier/networks.d/{NWID}.conf", b"nwid=1234567812345678\n"), (), NWID),
    ("rubbish controller network", write(f"zerotier/{NETWORK}", b"{"), ("--controller",), NWID),
    ("deep controller network", write(f"zerotier/{NETWORK}", b"[" * 100_000), ("--controller",), NWID),
    ("wrong controller network", write(f"zerotier/{NETWORK}", b'{"mtu": "x", "routes": 5}'), ("--controller",), NWID),
    (
        "home a file",
        home_becomes_a_file,
        (),
        "zerotier",
    ),
    ("socket in the way", write("ztnode.sock", b"x"), (), "ztnode.sock"),
    ("worker socket in the way", directory("worker-0.sock"), (), "worker"),
    ("token too short", write("control.token", b"short"), ("--listen", "127.0.0.1:0"), "control.token"),
]


@pytest.mark.parametrize(("damage", "arguments", "named"), [case[1:] for case in DAMAGES], ids=[c[0] for c in DAMAGES])
def test_damaged_state_is_named_in_one_line_and_left_alone(
    state: Path, planet: Path, damage: Callable[[Path], None], arguments: tuple[str, ...], named: str
) -> None:
    damage(state)
    before = tree(state) if state.is_dir() else {}
    process = start(state, "--planet", str(planet), *arguments)
    out, err = process.communicate(timeout=60)
    lines = [line for line in err.splitlines() if " INFO " not in line]
    assert process.returncode == 1, err
    assert len(lines) == 1 and lines[0].startswith("ztnode: ") and named in lines[0], err
    assert out == ""
    after = tree(state) if state.is_dir() else {}
    # A port that was opened before something else failed may be remembered.
    for name in {"zerotier/zerotier-one.port", "control.token"} - before.keys():
        after.pop(name, None)
    assert after == before


@pytest.mark.parametrize("kept", [b"", b"x", b"9" * 10_000, b"99999", b"-1"])
def test_a_damaged_port_is_no_reason_to_stay_down(state: Path, planet: Path, kept: bytes) -> None:
    (state / "zerotier/zerotier-one.port").write_bytes(kept)
    process = run([each for each in command(state, "--planet", str(planet)) if each not in ("--port", "0")])
    try:
        wait_ready(process, state)
    finally:
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in err


# Disks

needs_mounts = pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("unshare") is None, reason="mounts a file system of its own, which takes root"
)


def in_tmpfs(state: Path, size: str, options: str = "") -> list[str]:
    """A command that runs another with a small file system of its own where ``state`` is, which goes with it. What is
    in ``state`` comes along."""
    script = (
        f'mkdir -p "{state}.copy" && cp -a "{state}/." "{state}.copy/" && '
        f'mount -t tmpfs -o size={size} none "{state}" && cp -a "{state}.copy/." "{state}/" && '
        + (f'mount -o remount,{options} "{state}" && ' if options else "")
        + 'exec "$@"'
    )
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]


@needs_mounts
def test_a_read_only_state_directory_is_one_line(state: Path, planet: Path) -> None:
    process = start(state, "--planet", str(planet), wrap=in_tmpfs(state, "1m", "ro"))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert len(err.splitlines()) == 1 and "Read-only file system" in err and str(state) in err


@pytest.fixture
def small_disk(state: Path) -> Iterator[Path]:
    """``state`` on a file system of one megabyte."""
    copy = shutil.copytree(state, state.with_name("copy"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(state)], check=True)
    try:
        shutil.copytree(copy, state, dirs_exist_ok=True)
        yield state
    finally:
        subprocess.run(["umount", "--lazy", str(state)], check=True)


def fill(disk: Path) -> Path:
    """Leave no room; the file that holds it."""
    ballast = disk / "ballast"
    with pytest.raises(OSError, match="No space"), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return ballast


@needs_mounts
def test_a_full_disk_at_the_first_start_is_one_line(small_disk: Path, planet: Path) -> None:
    for name in ("identity.secret", "identity.public"):
        (small_disk / "zerotier" / name).unlink()
    fill(small_disk)
    process = start(small_disk, "--planet", str(planet))
    _, err = process.communicate(timeout=90)  # it makes an identity
    lines = [line for line in err.splitlines() if " INFO " not in line]
    assert process.returncode == 1, err
    assert len(lines) == 1 and "No space left" in lines[0], err
    assert not (small_disk / "zerotier/identity.secret").exists()


@needs_mounts
def test_a_disk_that_fills_up_stops_nothing(small_disk: Path, planet: Path) -> None:
    """What cannot be kept is refused with its reason, or told in the log; what needs no disk goes on."""
    process = start(small_disk, "--planet", str(planet), "--controller")
    try:
        node = wait_ready(process, small_disk)
        ballast = fill(small_disk)
        with pytest.raises(OSError, match="No space left"):
            node.join(OTHER_NWID)
        assert [network.nwid for network in node.networks()] == [NWID]
        controller = ztclient.controller.Controller(node)
        for _ in range(100):
            with pytest.raises(OSError, match="this node's state cannot be written: No space left on device"):
                controller.create_network(name="lab")
        assert controller.networks() == []
        node.leave(NWID)  # removing needs no room
        ballast.unlink()
        node.join(OTHER_NWID)
        nwid = controller.create_network(name="lab").nwid
        assert (small_disk / f"zerotier/controller.d/network/{nwid}.json").exists()
        assert (small_disk / f"zerotier/networks.d/{OTHER_NWID}.conf").exists()
    finally:
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in err
    assert len(err.splitlines()) < 20, err


WRITER = """
import itertools, sys
from pathlib import Path
from ztnode.plugins.stores import FileStore
store = FileStore(Path(sys.argv[1]))
print("ready", flush=True)
for number in itertools.count():
    for key in ("identity.public", "networks.d/9ad07d01093a69e3.conf", "planet"):
        store.write(key, bytes([number & 255]) * (20_000 + number % 977))
"""


def test_a_writer_that_is_killed_at_any_moment_leaves_whole_values(tmp_path: Path) -> None:
    home = tmp_path / "zerotier"
    source = random.Random(1)
    keys = ("identity.public", f"networks.d/{NWID}.conf", "planet")
    for _ in range(12):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(home)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(source.random() * 0.05)
        process.kill()
        process.wait()
        process.stdout.close()
        store = FileStore(home)
        for key in keys:
            value = store.read(key)
            if value is not None:
                assert len(set(value)) == 1 and 20_000 <= len(value) < 20_977
        assert set(store.keys()) <= set(keys)
        store.close()
        # What was being written is not left to pile up.
        assert not list(home.rglob(".*.tmp"))


def test_a_node_that_is_killed_at_any_moment_starts_again(state: Path, planet: Path) -> None:
    """While it keeps networks and documents of the controller, which are many writes."""
    source = random.Random(2)
    promised: set[str] = set()
    for _ in range(3):
        process = start(state, "--planet", str(planet), "--controller")
        node = wait_ready(process, state)
        timer = threading.Timer(0.1 + source.random() * 0.4, process.kill)
        timer.start()
        controller = ztclient.controller.Controller(node)
        with contextlib.suppress(ztclient.Error, OSError):
            for number in itertools.count():
                promised.add(controller.create_network(name=f"n{number}").nwid)
                node.join(f"{number:010x}{len(promised):06x}")
        process.communicate()
        timer.join()
    process = start(state, "--planet", str(planet), "--controller")
    node = wait_ready(process, state)
    kept = {network.nwid for network in ztclient.controller.Controller(node).networks()}
    assert promised and promised <= kept
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in err


# Signals


def ends(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    """Send the signal; exit code and stderr. It ends in time, and so does all that it started."""
    members = [process.pid, *family(process.pid)]
    started = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    taken = time.monotonic() - started
    assert taken < STOP_SECONDS + GRACE, f"{taken:.1f} s"
    until(lambda: gone(members), 3)
    assert "Traceback" not in err and "rror" not in err, err
    return process.returncode, err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_node_that_makes_its_identity(state: Path, planet: Path, number: signal.Signals) -> None:
    for name in ("identity.secret", "identity.public"):
        (state / "zerotier" / name).unlink()
    process = start(state, "--planet", str(planet))
    assert process.stderr is not None
    while "making an identity" not in process.stderr.readline():
        assert process.poll() is None
    code, _ = ends(process, number)
    assert code == 0
    # In no case half of it.
    assert (state / "zerotier/identity.secret").exists() == (state / "zerotier/identity.public").exists()


def test_a_node_that_is_killed_while_it_makes_its_identity_leaves_no_process(state: Path, planet: Path) -> None:
    for name in ("identity.secret", "identity.public"):
        (state / "zerotier" / name).unlink()
    process = start(state, "--planet", str(planet))
    assert process.stderr is not None
    while "making an identity" not in process.stderr.readline():
        assert process.poll() is None
    until(lambda: bool(family(process.pid)), 5)
    helpers = family(process.pid)
    process.kill()
    until(lambda: gone(helpers), 5)


def test_a_node_ends_with_its_standard_input_if_told_so(state: Path, planet: Path) -> None:
    pipe = subprocess.PIPE
    whole = command(state, "--planet", str(planet), "--until-eof")
    process = subprocess.Popen(whole, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    _started.append(process)
    wait_ready(process, state)
    members = [process.pid, *family(process.pid)]
    assert process.stdin is not None
    process.stdin.write("what is said there is of no account\n")
    process.stdin.flush()
    time.sleep(0.2)
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(STOP_SECONDS + GRACE) == 0
    until(lambda: gone(members), 3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_node_at_any_moment_of_its_start(
    state: Path, planet: Path, tmp_path: Path, number: signal.Signals
) -> None:
    delays = [0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.3]
    # What a signal does while the interpreter itself comes up is not ours to say.
    begin = "import sys; from ztnode.cli import main; print('begun', flush=True); main()"

    def attempt(delay: float) -> None:
        own = tmp_path / f"{delay}"
        shutil.copytree(state, own)
        arguments = command(own, "--planet", str(planet), "--workers", "2")[3:]
        process = run([sys.executable, "-c", begin, *arguments])
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        time.sleep(delay)
        code, err = ends(process, number)
        # Before the node has taken the signals over, they end Python as they end any program.
        assert code in (0, -number, 128 + number), (delay, code, err)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(attempt, delays))


def test_a_signal_ends_a_node_that_has_identities_to_check(state: Path, planet: Path) -> None:
    """A tenth of a second each, and as many at once as a root may be asked for: none of them is waited for."""
    process = start(state, "--planet", str(planet), "--root")
    node = wait_ready(process, state)
    status = node.status()
    listening = next(each for each in status.listening if not each.startswith("["))
    victim = Identity.parse_text(status.public_identity)
    for network in range(6):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind((f"127.0.{network + 1}.1", 0))
            for maker in made_up(5, 0x3000000000 + 100 * network):
                sender.sendto(hello(maker, victim), ("127.0.0.1", int(listening.rpartition(":")[2])))
    until(lambda: node.status().counters.get("vl1.identities_hashed", 0) > 8)
    assert ends(process, signal.SIGTERM)[0] == 0


def test_a_signal_ends_a_node_whose_clients_and_worker_are_stuck(overlay: Overlay) -> None:
    """A stream that nobody reads, a dial to nowhere, a watcher, a listener, and a worker that does not answer."""
    member = overlay.network.add("stuck", "--workers", "2")
    member.wait_online()
    ipv4(member, overlay.nwid)
    channel = grpc.insecure_channel(f"unix:{member.state}/ztnode.sock")
    stub = rpc.NodeServiceStub(channel)
    held = threading.Event()

    def requests() -> Iterator[pb.StreamRequest]:
        yield pb.StreamRequest(dial=pb.DialRequest(ip=overlay.ip, port=PORT))
        yield pb.StreamRequest(data=f"GET /{16 << 20} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        held.wait(20)

    calls: list[Any] = [
        stub.Stream(requests()),
        stub.WatchNetworks(pb.WatchNetworksRequest()),
        stub.Listen(pb.ListenRequest(port=7200)),
    ]
    for call in calls:
        next(iter(call))
    calls.append(stub.Dial.future(pb.DialRequest(ip="10.121.15.250", port=1)))
    local = socket.socket(socket.AF_UNIX)
    local.connect(str(member.state / "ztnode.sock"))
    handoff = socket.socket(socket.AF_UNIX)
    handoff.connect(str(member.state / "worker-0.sock"))
    workers = [worker.pid for worker in member.node.status().workers]
    os.kill(workers[0], signal.SIGSTOP)
    members = [member.process.pid, *family(member.process.pid)]
    started = time.monotonic()
    member.process.terminate()
    try:
        assert member.process.wait(20) == 0
        assert time.monotonic() - started < STOP_SECONDS + GRACE
        until(lambda: gone(members), 3)
        assert "Traceback" not in member.last_words()
    finally:
        held.set()
        channel.close()
        for each in (local, handoff):
            each.close()


# Processes that die, in the middle of bulk


class Pouring:
    """An endless transfer between two programs over the overlay: ``upload`` from beta's client, else to it."""

    def __init__(self, dialler: EmbeddedMember, listener: EmbeddedMember, ip: str, port: int, *, upload: bool) -> None:
        with listener.node.listen(ip, port) as listening:
            self.client = dialler.node.create_connection((ip, port), 10)
            self.server, _ = listening.accept()
        for each in (self.client, self.server):
            each.settimeout(20)
        self.source: socket.socket = self.client if upload else self.server
        self.sink: socket.socket = self.server if upload else self.client
        self.moved = 0
        self.ending: dict[str, BaseException | None] = {}
        self._threads = [threading.Thread(target=self._pour), threading.Thread(target=self._drain)]
        for thread in self._threads:
            thread.start()
        until(lambda: self.moved > 4 << 20)

    def _pour(self) -> None:
        try:
            while True:
                self.source.sendall(bytes(1 << 16))
        except OSError as error:
            self.ending["source"] = error

    def _drain(self) -> None:
        try:
            while data := self.sink.recv(1 << 18):
                self.moved += len(data)
            self.ending["sink"] = None  # a clean end of stream
        except OSError as error:
            self.ending["sink"] = error

    def close(self) -> None:
        for each in (self.client, self.server):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(30)

    def ended_with_reset(self, side: str) -> None:
        until(lambda: side in self.ending, 15)
        error = self.ending[side]
        assert error is not None, "truncated data looks complete"
        assert isinstance(error, OSError) and error.errno in (errno.ECONNRESET, errno.EPIPE), error


def fetch(overlay: Overlay, size: int = 50_000) -> bytes:
    connection = ztclient.HTTPConnection(overlay.ip, PORT, timeout=20, node=overlay.beta.node)
    connection.request("GET", f"/{size}")
    body = connection.getresponse().read()
    connection.close()
    return body


@pytest.mark.parametrize("upload", [False, True], ids=["download", "upload"])
def test_a_worker_that_is_killed_in_bulk_is_a_reset_for_its_client(overlay: Overlay, upload: bool) -> None:
    pouring = Pouring(overlay.beta, overlay.alpha, overlay.ip, 7210, upload=upload)
    worker = overlay.beta.node.status().workers[0]
    os.kill(worker.pid, signal.SIGKILL)
    pouring.ended_with_reset("source" if upload else "sink")
    if not upload:
        # The other end hears it from the next worker, which knows nothing of the connection.
        pouring.ended_with_reset("source")
    pouring.close()
    until(lambda: overlay.beta.node.status().workers[0].pid not in (0, worker.pid), 3)
    assert any(f"(pid {worker.pid}) ended: killed by SIGKILL" in line for line in log(overlay.beta))
    assert fetch(overlay) == content(50_000)


def log(member: EmbeddedMember) -> list[str]:
    return (member.state / "serve.log").read_text(errors="replace").splitlines()


@pytest.mark.parametrize("upload", [False, True], ids=["download", "upload"])
def test_a_node_that_is_killed_in_bulk_is_a_reset_for_its_client(overlay: Overlay, upload: bool) -> None:
    member = overlay.network.add(f"killed-{upload}")
    member.wait_online()
    ipv4(member, overlay.nwid)
    pouring = Pouring(member, overlay.alpha, overlay.ip, 7220, upload=upload)
    members = [member.process.pid, *family(member.process.pid)]
    member.process.kill()
    member.process.wait()
    pouring.ended_with_reset("source" if upload else "sink")
    until(lambda: gone(members), 3)
    pouring.close()
    # Sockets and a lock that nobody holds any more are no hindrance.
    again = overlay.network.restart(member)
    again.wait_online()
    again.stop()


def test_a_worker_that_stands_still_for_a_while_loses_nothing(overlay: Overlay) -> None:
    worker = overlay.beta.node.status().workers[0].pid
    size = 24 << 20
    digest, done = hashlib.sha256(), threading.Event()
    connection = ztclient.HTTPConnection(overlay.ip, PORT, timeout=30, node=overlay.beta.node)
    connection.request("GET", f"/{size}")
    response = connection.getresponse()
    digest.update(response.read(1 << 20))

    def read() -> None:
        while part := response.read(1 << 18):
            digest.update(part)
        done.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for pause in (0.3, 1.5):
            os.kill(worker, signal.SIGSTOP)
            time.sleep(pause)
            assert overlay.beta.node.status().address, "the node waits for its worker"
            os.kill(worker, signal.SIGCONT)
            time.sleep(0.05)
    finally:
        os.kill(worker, signal.SIGCONT)
    reader.join(30)
    connection.close()
    assert done.is_set() and digest.digest() == hashlib.sha256(content(size)).digest()
    assert overlay.beta.node.status().workers[0].pid == worker
