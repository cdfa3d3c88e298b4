"""Servers from Debian's packages, unchanged, on loopback, for as long as a context lasts; each yields its port."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.system.harness import Overlay
from tests.unit.tls_files import TlsFiles
from ztnode.embedded import free_port

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
BODY = os.urandom(1 << 20) * 64
"""64 MB."""


@contextlib.contextmanager
def open_directory() -> Iterator[Path]:
    """A directory that every user may enter, for a server that becomes another one.

    Below pytest's own directory there is none: whatever a test has opened there, the next session of pytest on this
    machine closes in its midst.
    """
    with tempfile.TemporaryDirectory(prefix="ztnode-test-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory


@contextlib.contextmanager
def process(command: Sequence[str], port: int, **options: Any) -> Iterator[int]:
    """A server of our own, from when it accepts."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options)
    try:
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if child.poll() is not None or time.monotonic() > deadline:
                child.kill()
                raise RuntimeError(f"{command[0]} does not serve: {child.communicate()[1][-1000:]}")
            time.sleep(0.05)
        yield port
    finally:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(10)
        child.kill()
        child.communicate()


def redis(directory: Path) -> contextlib.AbstractContextManager[int]:
    """Redis, which keeps nothing."""
    port = free_port()
    settings = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(directory)]
    return process(["redis-server", *settings], port)


@contextlib.contextmanager
def postgres(directory: Path, tls: TlsFiles | None = None) -> Iterator[int]:
    """PostgreSQL with a user and a database "app", and no password; with ``tls`` it lets nobody in without.

    ``directory`` is an ``open_directory``: the server is not root's.
    """
    account = pwd.getpwnam("postgres") if os.getuid() == 0 else None
    data, port = directory / "data", free_port()
    if account is not None:
        os.chown(directory, account.pw_uid, account.pw_gid)
    # Not Popen(user=): that forks, which gRPC's threads of this process do not always survive in the child.
    who = [] if account is None else ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    binaries = POSTGRES[-1]
    command = [*who, str(binaries / "initdb"), "-D", str(data), "-U", "app", "-A", "trust", "--no-sync"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=directory)
    settings = ["-c", f"port={port}", "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    settings += ["-c", f"unix_socket_directories={directory}"]
    if tls is not None:
        key = directory / "server.key"  # which nobody else may read
        key.write_bytes(tls.key.read_bytes())
        key.chmod(0o600)
        if account is not None:
            os.chown(key, account.pw_uid, account.pw_gid)
        certificate = directory / "server.pem"
        certificate.write_bytes(tls.certificate.read_bytes())
        certificate.chmod(0o644)
        settings += ["-c", "ssl=on", "-c", f"ssl_cert_file={certificate}", "-c", f"ssl_key_file={key}"]
        (data / "pg_hba.conf").write_text("hostssl all all all trust\n")
    with process([*who, str(binaries / "postgres"), "-D", str(data), *settings], port, cwd=directory):
        at = ["-h", "127.0.0.1", "-p", str(port), "-U", "app"]
        deadline = time.monotonic() + 60
        while subprocess.run([str(binaries / "pg_isready"), *at], stdout=subprocess.DEVNULL, check=False).returncode:
            assert time.monotonic() < deadline, "PostgreSQL listens, and is never ready"
            time.sleep(0.1)
        subprocess.run([str(binaries / "createdb"), *at, "app"], check=True)
        yield port


@contextlib.contextmanager
def sshd(directory: Path) -> Iterator[int]:
    """OpenSSH for this user, by the key ``directory/id``."""
    for name in ("id", "host"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)], check=True)
    shutil.copy(directory / "id.pub", directory / "authorized")
    port = free_port()
    settings = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": directory / "host",
        "AuthorizedKeysFile": directory / "authorized",
        "StrictModes": "no",
        "PidFile": "none",
        "Subsystem": "sftp internal-sftp",
        "UsePAM": "no",
    }
    (directory / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    command = shutil.which("sshd") or "/usr/sbin/sshd"
    with process([command, "-D", "-e", "-f", str(directory / "sshd_config")], port):
        yield port


@contextlib.contextmanager
def vsftpd(directory: Path, address: str) -> Iterator[tuple[int, int]]:
    """An FTP server for everybody, with one file; it says ``address`` for passive mode. Its port, and that of data.

    ``directory`` is an ``open_directory``.
    """
    (directory / "file").write_bytes(BODY[:1_000_000])
    port, data = free_port(), free_port()
    settings = {
        "listen": "YES",
        "background": "NO",
        "listen_address": "127.0.0.1",
        "listen_port": port,
        "anonymous_enable": "YES",
        "anon_root": directory,
        "no_anon_password": "YES",
        "pasv_address": address,
        "pasv_min_port": data,
        "pasv_max_port": data,
        "run_as_launching_user": "NO" if os.getuid() == 0 else "YES",
        "seccomp_sandbox": "NO",
        "secure_chroot_dir": directory,
    }
    path = directory / "vsftpd.conf"
    path.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    with process([shutil.which("vsftpd") or "/usr/sbin/vsftpd", str(path)], port):
        yield port, data


@contextlib.contextmanager
def exposed(overlay: Overlay, ports: dict[int, int]) -> Iterator[None]:
    """Ports of the overlay's alpha that lead to ports on loopback."""
    command = [sys.executable, "-m", "ztnode", "expose", "--state", str(overlay.alpha.state)]
    for there, here in ports.items():
        command += ["-R", f"{overlay.ip}:{there}:127.0.0.1:{here}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        for _ in ports:
            child.stderr.readline()
        try:
            yield
        finally:
            child.terminate()


@contextlib.contextmanager
def forwarded(overlay: Overlay, target: int) -> Iterator[int]:
    """A port on loopback that leads to one of alpha's, from beta."""
    command = [sys.executable, "-m", "ztnode", "forward", "--state", str(overlay.beta.state), "0"]
    with subprocess.Popen([*command, f"{overlay.ip}:{target}"], stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        line = child.stderr.readline()
        try:
            yield int(line.split(" port ")[1].split()[0])
        finally:
            child.terminate()


def iperf3(_directory: Path) -> contextlib.AbstractContextManager[int]:
    """A server of iperf3."""
    port = free_port()
    return process(["iperf3", "-s", "-p", str(port), "--bind", "127.0.0.1"], port)
