"""From what goes wrong below to what httpx raises."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Final

import httpcore
import httpx


class Translated:
    """From what sockets raise to what httpcore raises. A class, for a generator costs a request several times as
    much."""

    __slots__ = ("_failure", "_timeout")

    def __init__(self, timeout: type[Exception], failure: type[Exception]) -> None:
        self._timeout = timeout
        self._failure = failure

    def __enter__(self) -> None: ...

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if isinstance(error, TimeoutError):
            raise self._timeout(str(error) or "timed out") from error
        if isinstance(error, OSError):
            raise self._failure(str(error)) from error


CONNECTING: Final = Translated(httpcore.ConnectTimeout, httpcore.ConnectError)
READING: Final = Translated(httpcore.ReadTimeout, httpcore.ReadError)
WRITING: Final = Translated(httpcore.WriteTimeout, httpcore.WriteError)


def counterpart(error: Exception, request: httpx.Request) -> Exception:
    """What httpx calls ``error`` where that is one of httpcore's: the two have the same names."""
    for each in type(error).__mro__:
        known = getattr(httpx, each.__name__, None)
        if each.__module__.startswith("httpcore") and known is not None:
            raised: Exception = known(str(error), request=request)
            return raised
    return error


@contextlib.contextmanager
def mapped(request: httpx.Request) -> Iterator[None]:
    """From what httpcore raises inside to what httpx raises."""
    try:
        yield
    except Exception as error:
        if (raised := counterpart(error, request)) is error:
            raise
        raise raised from error
