"""The place of one stack worker: what stays when its process is replaced."""

from __future__ import annotations

import asyncio

from ztnode.node.worker_process import WorkerGone, WorkerProcess


class WorkerSlot:
    """Filled by the supervisor; whoever needs the worker waits here for the process of the moment."""

    def __init__(self, index: int, path: str) -> None:
        self.index = index
        self.path = path
        """Of the hand-off socket."""
        self.process: WorkerProcess | None = None
        self.ready = asyncio.Event()
        """The process knows all that it has to know; also set when there will never be one again."""
        self.restarts = 0
        self.task: asyncio.Task[None] | None = None

    async def running(self) -> WorkerProcess:
        """The process, once it is ready. Raises WorkerGone when the node stops."""
        await self.ready.wait()
        if self.process is None:
            raise WorkerGone("the stack worker has ended")
        return self.process
