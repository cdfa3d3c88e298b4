"""Every decoder: the first byte chooses it, the rest is its input. It gives a value or the error of its kind."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from tests.unit.wire.test_vl1_codecs import PARSERS
from tests.unit.wire.test_vl2_codecs import DECODERS
from ztclient import forms
from ztnode.controller import ControllerError, documents
from ztnode.forwarding import mapping
from ztnode.node import local_conf
from ztnode.plugins import socks5
from ztnode.rules_language import compile_rules
from ztnode.wire import arp, ethernet, icmp, icmpv6, ipv4, ipv6, port_mapping, tcp, udp
from ztnode.wire.identity import Identity
from ztnode.wire.known_peers import KnownPeers
from ztnode.wire.tcp_relay import RecordReader

VECTORS: Final = Path(__file__).parents[2] / "vectors"
RULES: Final = VECTORS / "rules_language/compiled.json"
NWID, MEMBER = 0x077069B9250A69E3, 0xC37A33FD8D


def _text(parse: Callable[[str], Any]) -> Callable[[bytes], Any]:
    return lambda data: parse(data.decode("utf-8", "surrogateescape"))


ALL: Final[list[Callable[[bytes], Any]]] = [
    *PARSERS.values(),
    *DECODERS,
    _text(Identity.parse_text),
    lambda data: KnownPeers(data),
    lambda data: ethernet.parse(data),
    lambda data: arp.parse(data),
    lambda data: ipv4.parse(data),
    lambda data: ipv6.parse(data),
    lambda data: ipv6.parse_extensions(data[0] if data else 0, memoryview(data)),
    lambda data: tcp.parse(data),
    lambda data: udp.parse(data, 0, checksum_required=False),
    lambda data: icmp.parse(data),
    lambda data: list(icmpv6.parse_options(data)),
    lambda data: icmpv6.parse(data, 0),
    lambda data: documents.parse_network(documents.parse_document(data), NWID),
    lambda data: documents.parse_member(documents.parse_document(data), NWID, MEMBER),
    local_conf.parse,
    _text(mapping.parse_forward),
    _text(mapping.parse_expose),
    _text(forms.numeric_ip),
    _text(compile_rules),
    lambda data: RecordReader().feed(data),
    lambda data: port_mapping.parse_pcp_map(data, data[24:36]),
    lambda data: port_mapping.parse_nat_pmp_map(data),
    lambda data: socks5.unpack_endpoint(data, 0),
]


def fuzz(data: bytes) -> None:
    """See the module."""
    if not data:
        return
    parse = ALL[data[0] % len(ALL)]
    with contextlib.suppress(ControllerError, ValueError):  # a WireError is a ValueError
        parse(data[1:])


def seeds() -> Iterator[bytes]:
    """Documents and configurations that ZeroTier One wrote, and the kernel's frames."""
    frames = [bytes.fromhex(text) for text in json.loads((VECTORS / "net/linux.json").read_text()).values()]
    files = [path.read_bytes() for path in sorted(VECTORS.rglob("*")) if path.suffix in (".conf", ".bin")]
    sources = ["\n".join(case["source"]).encode() for case in json.loads(RULES.read_text())]
    stored = [path.read_bytes() for path in sorted((VECTORS / "controller").rglob("*.json"))]
    for number in range(len(ALL)):
        yield bytes((number,))
    for content in [*frames, *files, *stored, *sources]:
        for number, parse in enumerate(ALL):
            try:
                parse(content[14:] if content in frames else content)
            except ValueError:
                continue
            yield bytes((number,)) + content[:2000]
