"""DNS messages (RFC 1035) as far as addresses go. No I/O. dnspython reads and writes them."""

from __future__ import annotations

from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA

from ztnode.names.answer import Answer, Kind

MAX_ADDRESSES: Final = 16
"""Of one answer; more are left out."""


class Unusable(Exception):
    """The server cannot or will not say; another may."""


class Truncated(Exception):
    """The answer is longer than a datagram: ask by TCP."""


def build(name: str, kind: Kind, number: int) -> bytes:
    """A query. ``number``: 16 random bits. Without EDNS, which not every server knows: what is longer comes by TCP."""
    query = dns.message.make_query(name + ".", dns.rdatatype.RdataType(kind.value), use_edns=False, id=number)
    return query.to_wire()


def parse(data: bytes, query: bytes) -> Answer | None:
    """Read an answer to ``query``; None for what is no answer to it. Raises Unusable, Truncated.

    The bytes are a stranger's: whatever dnspython makes of bad ones is Unusable.
    """
    asked = dns.message.from_wire(query)
    if data[:2] != query[:2] or not data[2:3] or not data[2] & 0x80:
        return None
    try:
        answer = dns.message.from_wire(data, ignore_trailing=True, raise_on_truncation=False)
        if not asked.is_response(answer):
            return None
        if answer.flags & dns.flags.TC:
            raise Truncated
        if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            raise Unusable(dns.rcode.to_text(answer.rcode()))
        if not isinstance(answer, dns.message.QueryMessage):
            raise Unusable("no answer to a query")
        chain = answer.resolve_chaining()
    except (dns.exception.DNSException, ValueError) as error:
        raise Unusable(f"a malformed answer ({type(error).__name__})") from None
    addresses = [
        record.address
        for record in chain.answer or ()
        if isinstance(record, (dns.rdtypes.IN.A.A, dns.rdtypes.IN.AAAA.AAAA))
    ]
    canonical = chain.canonical_name.to_text(omit_final_dot=True).lower()
    exists = bool(addresses) or answer.rcode() == dns.rcode.NOERROR
    return Answer(tuple(addresses[:MAX_ADDRESSES]), exists, canonical, chain.minimum_ttl)
