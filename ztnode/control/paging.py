"""Pages of the List calls: bounded in entries and bytes, resumed by a token that names the last entry given.

The token says which entry came last and not how many came, so that an entry that appears or goes while a client turns
the pages moves no other one out of its way. It is opaque to clients, but no secret: whoever makes one up may begin
elsewhere in a list that is open to him anyway.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from ztnode.control.failure import invalid

MAX_ENTRIES = 1000
"""In one page, and where the client does not say."""
MAX_BYTES = 2 * 1024 * 1024
"""A page ends once it is this long: gRPC clients take messages of up to 4 MiB by default."""
_SCOPE_BYTES = 4

Entry = TypeVar("Entry")
Answer = TypeVar("Answer", bound=Message)


class PageRequest(Protocol):
    """A List request."""

    page_size: int
    page_token: str


def page(
    request: PageRequest,
    scope: str,
    entries: Iterable[tuple[bytes, Entry]],
    render: Callable[[Entry], Answer],
) -> tuple[list[Answer], str]:
    """One page of ``entries``, rendered, in the order of the keys that they come with; and the token of the next page,
    empty after the last. ``scope`` names the list: its tokens are good for no other. Raises
    RpcFailure(INVALID_ARGUMENT)."""

    def entries_after(after: bytes | None) -> Iterable[tuple[bytes, Entry]]:
        return sorted((entry for entry in entries if after is None or entry[0] > after), key=lambda entry: entry[0])

    return ordered_page(request, scope, entries_after, render)


def ordered_page(
    request: PageRequest,
    scope: str,
    entries_after: Callable[[bytes | None], Iterable[tuple[bytes, Entry]]],
    render: Callable[[Entry], Answer],
) -> tuple[list[Answer], str]:
    """As ``page``, of a list so long that one page must not look at all of it: ``entries_after`` gives the entries of
    higher key (None: all) in order, and no more of them are taken than the page needs."""
    if request.page_size < 0:
        raise invalid(f"{request.page_size} is not a page size")
    limit = min(request.page_size or MAX_ENTRIES, MAX_ENTRIES)
    mark = hashlib.sha256(scope.encode()).digest()[:_SCOPE_BYTES]
    answers: list[Answer] = []
    size, last = 0, b""
    for key, entry in entries_after(_read_token(request.page_token, mark)):
        if len(answers) >= limit or size >= MAX_BYTES:
            return answers, base64.urlsafe_b64encode(mark + last).decode()
        answers.append(render(entry))
        size += answers[-1].ByteSize()
        last = key
    return answers, ""


def _read_token(token: str, mark: bytes) -> bytes | None:
    """The key of the last entry given; None at the beginning."""
    if not token:
        return None
    try:
        content = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        content = b""
    if not content.startswith(mark):
        raise invalid("that is no page token of this list: begin again without one")
    return content[_SCOPE_BYTES:]
