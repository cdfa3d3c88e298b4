"""Being the first process of a container: somebody must take the exit status of orphans, or they stay as zombies.

The node itself cannot: it would take those of its own workers away from their supervisor. So process 1 starts the node
as its child, passes signals on to it, takes every status that comes, and ends as the node does.
"""

from __future__ import annotations

import os
import signal
from typing import Final

INIT: Final = 1
PASSED_ON: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def step_aside() -> None:
    """In process 1: go on as its child, while the parent waits and never returns. Elsewhere nothing. Call it before
    there are threads."""
    if os.getpid() != INIT:
        return
    # Blocked, so that none is lost between the fork and the moment when the child waits for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, (*PASSED_ON, signal.SIGCHLD))
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*PASSED_ON, signal.SIGCHLD))
        return
    while True:
        number = signal.sigwait((*PASSED_ON, signal.SIGCHLD))
        if number != signal.SIGCHLD:
            os.kill(child, number)
            continue
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == child:
                os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
            if pid == 0:
                break
