"""The protocol's times as plain numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.timestamp_pb2 import Timestamp

_LAST_DURATION = 315_576_000_000
"""Seconds that a Duration may hold: 10,000 years."""
_LAST_TIMESTAMP = 253_402_300_800_000
"""Milliseconds: the end of the year 9999, beyond which there is no Timestamp."""


def duration(seconds: float) -> Duration:
    """A Duration of that many seconds, to the nanosecond. Raises ValueError where there is none."""
    from google.protobuf.duration_pb2 import Duration

    if not abs(seconds) <= _LAST_DURATION:
        raise ValueError(f"{seconds} is not a number of seconds that can be told")
    nanoseconds = round(abs(seconds) * 1e9)
    sign = -1 if seconds < 0 else 1
    return Duration(seconds=sign * (nanoseconds // 1_000_000_000), nanos=sign * (nanoseconds % 1_000_000_000))


def seconds(message: Duration) -> float:
    """A Duration in seconds."""
    return (message.seconds * 1_000_000_000 + message.nanos) / 1e9


def timestamp(milliseconds: int) -> Timestamp | None:
    """Unix time in milliseconds as a Timestamp; None for 0, which stands for never, and beyond the year 9999."""
    from google.protobuf.timestamp_pb2 import Timestamp

    if not 0 < milliseconds < _LAST_TIMESTAMP:
        return None
    message = Timestamp()
    message.FromMilliseconds(milliseconds)
    return message


def milliseconds(message: Timestamp) -> int:
    """A Timestamp as Unix time in milliseconds; 0 where it is not set."""
    return message.seconds * 1000 + message.nanos // 1_000_000
