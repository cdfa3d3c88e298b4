"""A minute of zero window, both ways at once: nothing is lost, nobody gives up, and it goes on when the window opens.

A file of its own, so that its minute passes beside the other tests and not before them.
"""

from __future__ import annotations

import hashlib
import os

import pytest

from tests.netns import tapharness
from tests.netns.kernel_pairs import MB, Worker, now, pair, pull, push, read_all
from tests.netns.tapharness import harness

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(tapharness.unavailable() is not None, reason=str(tapharness.unavailable())),
]

PAUSE = 60.0
"""Seconds: both sides' probes back off to many seconds meanwhile."""


def test_a_minute_of_zero_window_both_ways() -> None:
    with harness() as net:
        stalled, kernel_reader = pair(net)  # the kernel does not read what we send
        reader, kernel_writer = pair(net)  # we do not read what the kernel sends
        up, down = os.urandom(16 * MB), os.urandom(32 * MB)
        kernel_writer.settimeout(None)

        def say() -> None:
            kernel_writer.sendall(down)
            kernel_writer.close()

        writing = Worker(say)
        feed = push(stalled, up)
        begin = now()
        net.run(lambda: feed() or now() - begin > PAUSE, PAUSE + 5)
        assert not feed()  # the kernel's window did close
        assert stalled.info()["send_window"] < stalled.snd.mss
        assert stalled.snd.persist_backoff > 3  # and we asked about it more and more rarely
        assert not writing.done  # so did ours
        assert reader.readable < 16 * MB
        assert stalled.error is None
        assert reader.error is None

        reading = Worker(lambda: read_all(kernel_reader))
        pieces: list[bytes] = []
        drain = pull(reader, pieces)
        net.run(lambda: all((feed(), drain(), reading.done)), 60)
        assert reading.result() == hashlib.sha256(up).hexdigest()
        assert b"".join(pieces) == down
        writing.result()
