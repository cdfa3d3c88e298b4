"""Programs from Debian's packages, unchanged, over two real nodes: by exec, forward, nc and proxy."""

from __future__ import annotations

import asyncio
import functools
import http.server
import os
import shlex
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integrations import others
from tests.system.harness import Overlay
from tests.unit import tls_files
from ztclient import aio

pytestmark = pytest.mark.timeout(300)


def needs(*programs: str) -> pytest.MarkDecorator:
    path = f"{os.environ['PATH']}:/usr/sbin"
    missing = [each for each in programs if shutil.which(each, path=path) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@pytest.fixture(autouse=True)
def on_beta(overlay: Overlay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZTNODE_STATE", str(overlay.beta.state))


def run(*command: str, **environ: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, env={**os.environ, **environ}, check=False
    )
    assert done.returncode == 0, (command, done.stdout[-500:], done.stderr[-1500:])
    return done.stdout


def execute(*command: str) -> str:
    return run(sys.executable, "-m", "ztnode", "exec", "--", *command)


def repository(directory: Path) -> Path:
    """A bare Git repository that can be fetched by plain HTTP."""
    work, bare = directory / "work", directory / "project.git"
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example"]
    run(*git, "init", "-q", str(work))
    (work / "file").write_bytes(others.BODY[:300_000])
    run(*git, "-C", str(work), "add", "file")
    run(*git, "-C", str(work), "commit", "-qm", "one")
    run("git", "clone", "-q", "--bare", str(work), str(bare))
    run("git", "-C", str(bare), "update-server-info")
    return bare


@pytest.fixture
def open_directory() -> Iterator[Path]:
    with others.open_directory() as directory:
        yield directory


@needs("git", "curl", "wget")
def test_git_curl_and_wget_by_exec(overlay: Overlay, tmp_path: Path) -> None:
    repository(tmp_path)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        with others.exposed(overlay, {8080: server.server_port}):
            site = f"http://{overlay.ip}:8080"
            execute("git", "clone", "-q", f"{site}/project.git", str(tmp_path / "cloned"))
            assert (tmp_path / "cloned" / "file").read_bytes() == others.BODY[:300_000]
            execute("wget", "-q", "-O", str(tmp_path / "fetched"), f"{site}/work/file")
            assert (tmp_path / "fetched").read_bytes() == others.BODY[:300_000]
            execute("curl", "-sSf", "-o", str(tmp_path / "curled"), f"{site}/work/file")
            assert (tmp_path / "curled").read_bytes() == others.BODY[:300_000]
        server.shutdown()


@needs("sshd", "ssh", "scp", "git")
def test_ssh_scp_and_git_by_nc(overlay: Overlay, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(others.BODY)
    bare = repository(tmp_path)
    proxy = f"{shlex.quote(sys.executable)} -m ztnode nc %h %p"
    options = ["-i", str(tmp_path / "id"), "-o", f"ProxyCommand={proxy}", "-o", "StrictHostKeyChecking=no"]
    options += ["-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-F", "/dev/null"]
    with others.sshd(tmp_path) as port, others.exposed(overlay, {22: port}):
        assert run("ssh", *options, overlay.ip, "echo", "hello") == "hello\n"
        run("scp", "-q", *options, f"{overlay.ip}:{big}", str(tmp_path / "down"))
        assert (tmp_path / "down").read_bytes() == others.BODY
        run("scp", "-q", *options, str(big), f"{overlay.ip}:{tmp_path / 'up'}")
        assert (tmp_path / "up").read_bytes() == others.BODY
        ssh = shlex.join(["ssh", *options])
        run("git", "clone", "-q", f"ssh://{overlay.ip}{bare}", str(tmp_path / "cloned"), GIT_SSH_COMMAND=ssh)
        assert (tmp_path / "cloned" / "file").is_file()


@needs("redis-server", "redis-cli")
def test_redis_by_forward_and_library(overlay: Overlay, tmp_path: Path) -> None:
    from ztclient.integrations.redis import async_client, client

    with others.redis(tmp_path) as port, others.exposed(overlay, {6379: port}):
        with others.forwarded(overlay, 6379) as here:
            assert run("redis-cli", "-p", str(here), "set", "a", "1") == "OK\n"
        with client(overlay.ip) as redis:
            assert redis.get("a") == b"1"
            redis.set("b", others.BODY[:1_000_000])
            assert redis.get("b") == others.BODY[:1_000_000]

        async def main() -> None:
            async with async_client(overlay.ip) as redis:
                assert await redis.incr("a") == 2

        asyncio.run(main())


@needs("psql")
@pytest.mark.skipif(not others.POSTGRES, reason="not installed: postgresql")
def test_postgresql_by_forward_and_libraries(overlay: Overlay, open_directory: Path) -> None:
    import psycopg

    from ztclient.integrations import asyncpg as overlay_asyncpg
    from ztclient.integrations.psycopg import async_connect, connect

    with others.postgres(open_directory) as port, others.exposed(overlay, {5432: port}):
        with others.forwarded(overlay, 5432) as here:
            where = f"host=127.0.0.1 port={here} user=app dbname=app"
            assert run("psql", "-Atc", "select 6 * 7", where) == "42\n"
        where = f"host={overlay.ip} user=app dbname=app"
        with connect(where) as connection:
            assert connection.execute("select repeat('x', 1000000)").fetchone() == ("x" * 1_000_000,)
        with pytest.raises(psycopg.OperationalError, match="refused"):
            connect(where, port=9)
        with pytest.raises(psycopg.OperationalError, match="SSL"):
            connect(where, sslmode="require")  # this server has none; it was asked over the overlay

        async def main() -> None:
            async with await async_connect(where) as connection:
                answer = await connection.execute("select 1")
                assert await answer.fetchone() == (1,)
            plain = await overlay_asyncpg.connect(f"postgresql://app@{overlay.ip}/app", node=aio.Node())
            assert await plain.fetchval("select 6 * 7") == 42
            await plain.close()
            async with overlay_asyncpg.create_pool(f"postgresql://app@{overlay.ip}/app", min_size=2) as pool:
                assert await asyncio.gather(*(pool.fetchval("select $1::int", n) for n in range(9))) == list(range(9))
            with pytest.raises(ConnectionRefusedError):
                await overlay_asyncpg.connect(f"postgresql://app@{overlay.ip}:9/app")

        asyncio.run(main())


@pytest.mark.skipif(not others.POSTGRES, reason="not installed: postgresql")
def test_postgresql_by_tls_with_the_name_checked(overlay: Overlay, open_directory: Path, tmp_path: Path) -> None:
    import asyncpg
    import psycopg

    from ztclient.integrations import asyncpg as overlay_asyncpg
    from ztclient.integrations.psycopg import async_connect, connect

    hosts = overlay.beta.state / "hosts"
    hosts.write_text(f"{overlay.ip} db.internal.example other.internal.example\n")
    tls = tls_files.make(tmp_path, "db", host="db.internal.example")
    ours, other = "db.internal.example", "other.internal.example"
    with others.postgres(open_directory, tls) as port, others.exposed(overlay, {5432: port}):
        which = "user=app dbname=app"
        checked = f"{which} sslmode=verify-full sslrootcert={tls.certificate}"
        with connect(f"{which} host={ours}") as connection:
            assert connection.pgconn.ssl_in_use, "TLS is tried where nothing is said of it, as by libpq itself"
        with connect(f"{checked} host={ours}") as connection:
            assert connection.pgconn.ssl_in_use and connection.info.host == ours
        for host in (other, overlay.ip):
            with pytest.raises(psycopg.OperationalError, match="does not match host name"):
                connect(f"{checked} host={host}")
        with pytest.raises(psycopg.OperationalError, match="no encryption"):
            connect(f"{which} host={ours} sslmode=disable")

        async def main() -> None:
            async with await async_connect(f"{checked} host={ours}") as connection:
                assert connection.pgconn.ssl_in_use
            context = ssl.create_default_context(cafile=tls.certificate)
            plain = await overlay_asyncpg.connect(f"postgresql://app@{ours}/app", ssl=context)
            assert await plain.fetchval("select ssl from pg_stat_ssl where pid = pg_backend_pid()") is True
            await plain.close()
            by_name = f"postgresql://app@{ours}/app?sslmode=verify-full&sslrootcert={tls.certificate}"
            async with overlay_asyncpg.create_pool(by_name, min_size=2, max_size=2) as pool:
                assert await pool.fetchval("select 6 * 7") == 42
            for host in (other, overlay.ip):
                with pytest.raises(ssl.SSLCertVerificationError, match=r"mismatch|not valid for"):
                    await overlay_asyncpg.connect(f"postgresql://app@{host}/app", ssl=context)
            with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="no encryption"):
                await overlay_asyncpg.connect(f"postgresql://app@{ours}/app", ssl=False)

        asyncio.run(main())


@needs("vsftpd", "curl")
def test_passive_ftp_by_exec(overlay: Overlay, open_directory: Path, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("vsftpd wants root")
    with (
        others.vsftpd(open_directory, overlay.ip) as (port, data),
        others.exposed(overlay, {21: port, data: data}),
    ):
        execute("curl", "-sSf", "--ftp-pasv", "--disable-epsv", "-o", str(tmp_path / "got"), f"ftp://{overlay.ip}/file")
        assert (tmp_path / "got").read_bytes() == others.BODY[:1_000_000]


@needs("iperf3")
def test_iperf3_by_forward(overlay: Overlay) -> None:
    with (
        others.iperf3(Path()) as port,
        others.exposed(overlay, {5201: port}),
        others.forwarded(overlay, 5201) as here,
    ):
        for direction in ([], ["-R"]):
            done = run("iperf3", "-c", "127.0.0.1", "-p", str(here), "-n", "8M", "-P", "2", *direction)
            assert "iperf Done" in done
