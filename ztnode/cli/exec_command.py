"""ztnode exec."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import re
import secrets
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

import click

import ztclient
from ztclient import startup
from ztnode.cli.common import NODE_SECONDS, Failure, example, node_option_with_patience

_PYTHON: Final = re.compile(r"(python|pypy)[0-9.]*(\.exe)?")
_PASSED_ON: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@click.command(
    "exec",
    short_help="Run a program over the overlay.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog=example(
        "ztnode exec -- python script.py",
        "ztnode exec -- curl http://10.121.15.99:5380/",
        "ztnode exec -- git clone http://10.121.15.99:5380/project.git",
    ),
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@node_option_with_patience(lambda _arguments: NODE_SECONDS)
def execute(node: ztclient.Node, command: tuple[str, ...]) -> None:
    """Run COMMAND unchanged, so that its TCP connections to addresses and names of the joined networks go over this
    node, and all others as before.

    A Python program, and the Python processes that it starts, is covered whatever it does, but for what makes its
    sockets in C (uvloop, grpc); that Python needs ztclient. Any other program gets a proxy of its own by ALL_PROXY,
    HTTP_PROXY, HTTPS_PROXY and RSYNC_PROXY, and is covered where it heeds them, as curl, wget and git do. For ssh there
    is `ztnode nc`.
    """
    node.networks()  # who answers not shall say so now, and not in the program
    if is_python(command[0]):
        _become_python(node, command)
    raise SystemExit(asyncio.run(_run_with_proxy(node, command)))


def is_python(command: str) -> bool:
    """Whether a command is a Python, or a script for one."""
    path = shutil.which(command)
    if path is None or _PYTHON.fullmatch(Path(path).name.lower()):
        return path is not None
    with contextlib.suppress(OSError), Path(path).open("rb") as file:
        first = file.readline(256)
        return first.startswith(b"#!") and b"python" in first
    return False


def _become_python(node: ztclient.Node, command: tuple[str, ...]) -> NoReturn:
    path = [str(Path(startup.__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "ZTNODE_ADDRESS": node.address}
    try:
        os.execvpe(command[0], command, environment)
    except OSError as error:
        raise Failure(f"cannot run {command[0]}: {error.strerror}") from None


async def _run_with_proxy(node: ztclient.Node, command: Sequence[str]) -> int:
    """Run the command beside a proxy; its exit code, as a shell has it."""
    from ztnode.forwarding import TcpAddress
    from ztnode.forwarding.client_overlay import ClientOverlay
    from ztnode.forwarding.local import listen
    from ztnode.forwarding.proxy_service import ProxyService

    # Other users of this machine can reach the port.
    password = secrets.token_hex(16)

    def check(name: str, given: str) -> bool:
        return hmac.compare_digest(f"{name}:{given}".encode(), f"ztnode:{password}".encode())

    loop = asyncio.get_running_loop()
    with listen(TcpAddress("127.0.0.1", 0)) as listener:
        service = ProxyService(ClientOverlay(node), check_password=check, direct=True)
        serving = asyncio.create_task(service.run(listener))
        where = f"ztnode:{password}@127.0.0.1:{listener.getsockname()[1]}"
        child: asyncio.subprocess.Process | None = None
        early: list[int] = []

        def pass_on(number: int) -> None:
            if child is None:
                early.append(number)
            elif number != signal.SIGINT:
                # Ctrl-C comes to the command too, which is in our group: what it does about it is for it to say.
                child.send_signal(number)

        try:
            for number in (signal.SIGINT, *_PASSED_ON):
                loop.add_signal_handler(number, pass_on, number)
            child = await asyncio.create_subprocess_exec(*command, env={**os.environ, **proxy_variables(where)})
            for early_one in early:
                child.send_signal(early_one)
            code = await child.wait()
        except OSError as error:
            raise Failure(f"cannot run {command[0]}: {error.strerror}") from None
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
    return code if code >= 0 else 128 - code


def proxy_variables(where: str) -> dict[str, str]:
    """What names a proxy to programs, in both cases, because some heed one alone. ``where``: NAME:PASSWORD@IP:PORT."""
    named = {
        "ALL_PROXY": f"socks5h://{where}",
        "HTTP_PROXY": f"http://{where}",
        "HTTPS_PROXY": f"http://{where}",
        "NO_PROXY": "localhost,127.0.0.1,::1",
        "RSYNC_PROXY": where,
    }
    return {name: value for upper, value in named.items() for name in (upper, upper.lower())}
