"""What a form sends, bounded and checked: from lines of text to a controller's settings, and back."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

from starlette.requests import Request

from ztnode.controller import ControllerError
from ztnode.controller.documents import MAX_MULTICAST_LIMIT, ControlledMember, ControlledNetwork
from ztnode.web.answers import Refused, bad
from ztnode.wire.network_config import MAX_MTU, MIN_MTU

MAX_FORM: Final = 1 << 18
"""Bytes, percent-encoded; the longest is the one with rules."""
MAX_FIELDS: Final = 64
FORM_SECONDS: Final = 10.0
"""For all of it to come."""
FORM_TYPE: Final = "application/x-www-form-urlencoded"

Form = Mapping[str, str]


class FieldError(ValueError):
    """What one field holds cannot be used. ``field`` is its name; empty: the form as a whole."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field


@dataclass(frozen=True, slots=True)
class Field:
    """A control of a form. ``kind`` is text, number, check or lines (a text area); ``name`` that of the setting."""

    name: str
    label: str
    kind: str = "text"
    hint: str = ""
    bounds: tuple[int, int] = (0, 0)


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a POST, of several with one name the last. Raises Refused."""
    if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != FORM_TYPE:
        raise Refused(415, f"not {FORM_TYPE}")
    body = bytearray()
    try:
        async with asyncio.timeout(FORM_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > MAX_FORM:
                    raise Refused(413, f"the form is longer than {MAX_FORM} bytes")
    except TimeoutError:
        raise Refused(408, f"the form did not come within {FORM_SECONDS:g} s") from None
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
    except ValueError:
        raise bad("the form cannot be read") from None
    return {name: value.replace("\r\n", "\n") for name, value in pairs}


def field_of(error: ControllerError, fields: tuple[Field, ...]) -> FieldError:
    """An error of the controller, whose text begins with the setting that it is about."""
    text = str(error)
    named = re.match(r"\w+", text)
    known = {field.name for field in fields}
    return FieldError(named.group() if named is not None and named.group() in known else "", text)


# A network

NETWORK_FIELDS: Final = (
    Field("name", "Name", hint="127 bytes at the most"),
    Field("private", "Private: members must be authorized", "check"),
    Field("enableBroadcast", "Broadcast", "check"),
    Field("mtu", "MTU", "number", "bytes", (MIN_MTU, MAX_MTU)),
    Field(
        "multicastLimit",
        "Multicast limit",
        "number",
        "members that one multicast reaches; 0: none",
        (0, MAX_MULTICAST_LIMIT),
    ),
    Field("routes", "Routes", "lines", "one a line: 10.0.0.0/24, or 10.1.0.0/16 via 10.0.0.7"),
    Field("v4AssignMode", "Assign IPv4 addresses from the pools", "check"),
    Field("v6AssignMode", "Assign IPv6 addresses from the pools", "check"),
    Field("rfc4193", "Assign IPv6 addresses of RFC 4193 (a /128 each)", "check"),
    Field("6plane", "Assign 6PLANE addresses (a /80 each)", "check"),
    Field("ipAssignmentPools", "Pools", "lines", "one range a line: 10.0.0.1 - 10.0.0.254"),
    Field("domain", "DNS search domain"),
    Field("dns", "DNS servers", "lines", "one address a line"),
)


def network_values(network: ControlledNetwork) -> dict[str, Any]:
    """What the fields show."""
    return {
        "name": network.name,
        "private": network.private,
        "enableBroadcast": network.enable_broadcast,
        "mtu": network.mtu,
        "multicastLimit": network.multicast_limit,
        "routes": "\n".join(
            str(each.target) if each.via is None else f"{each.target} via {each.via}" for each in network.routes
        ),
        "v4AssignMode": network.v4_assign,
        "v6AssignMode": network.v6_assign,
        "rfc4193": network.rfc4193,
        "6plane": network.sixplane,
        "ipAssignmentPools": "\n".join(f"{pool.first} - {pool.last}" for pool in network.pools),
        "domain": network.dns.domain,
        "dns": "\n".join(map(str, network.dns.servers)),
    }


def network_settings(form: Form) -> dict[str, Any]:
    """The settings, in the words of ``controller.documents``, which checks them. Raises FieldError."""
    return {
        "name": form.get("name", ""),
        "private": "private" in form,
        "enableBroadcast": "enableBroadcast" in form,
        "mtu": number(form, "mtu"),
        "multicastLimit": number(form, "multicastLimit"),
        "routes": [_route(number, line) for number, line in _lines(form, "routes")],
        "v4AssignMode": {"zt": "v4AssignMode" in form},
        "v6AssignMode": {"zt": "v6AssignMode" in form, "rfc4193": "rfc4193" in form, "6plane": "6plane" in form},
        "ipAssignmentPools": [_pool(number, line) for number, line in _lines(form, "ipAssignmentPools")],
        "dns": {"domain": form.get("domain", ""), "servers": [line for _, line in _lines(form, "dns")]},
    }


# A member

MEMBER_FIELDS: Final = (
    Field("name", "Name", hint="127 bytes at the most"),
    Field("authorized", "Authorized", "check"),
    Field("ipAssignments", "Addresses", "lines", "one a line; empty: from the network's pools"),
    Field("noAutoAssignIps", "No addresses from the pools", "check"),
    Field("activeBridge", "May be a bridge", "check"),
    Field("ephemeral", "Ephemeral: forgotten when it says goodbye, or is not heard for too long", "check"),
)


def member_values(member: ControlledMember) -> dict[str, Any]:
    """What the fields show."""
    return {
        "name": member.name,
        "authorized": member.authorized,
        "ipAssignments": "\n".join(map(str, member.ip_assignments)),
        "noAutoAssignIps": member.no_auto_assign_ips,
        "activeBridge": member.active_bridge,
        "ephemeral": member.ephemeral,
    }


def member_settings(form: Form) -> dict[str, Any]:
    """The settings, in the words of ``controller.documents``, which checks them."""
    return {
        "name": form.get("name", ""),
        "authorized": "authorized" in form,
        "ipAssignments": [line for _, line in _lines(form, "ipAssignments")],
        "noAutoAssignIps": "noAutoAssignIps" in form,
        "activeBridge": "activeBridge" in form,
        "ephemeral": "ephemeral" in form,
    }


# The parts


def number(form: Form, field: str) -> int:
    """A decimal number of at most nine digits. Raises FieldError."""
    text = form.get(field, "").strip()
    if not re.fullmatch("[0-9]{1,9}", text):
        raise FieldError(field, f"{field} is not a number: {text!r:.32}")
    return int(text)


def nwid(form: Form, field: str) -> int:
    """A network's id. Raises FieldError."""
    text = form.get(field, "").strip()
    if not re.fullmatch("[0-9a-fA-F]{16}", text) or not int(text, 16):
        raise FieldError(field, f"{text!r:.64} is no network id, 16 hexadecimal digits")
    return int(text, 16)


def _lines(form: Form, field: str) -> list[tuple[int, str]]:
    """What is in the lines that are not empty, and their numbers."""
    lines = enumerate(form.get(field, "").split("\n"), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def _route(number: int, line: str) -> dict[str, str | None]:
    found = re.fullmatch(r"(\S+)(?:\s+via\s+(\S+))?", line)
    if found is None:
        raise FieldError("routes", f"routes, line {number}: not NETWORK, or NETWORK via ADDRESS: {line!r:.64}")
    return {"target": found[1], "via": found[2]}


def _pool(number: int, line: str) -> dict[str, str]:
    found = re.fullmatch(r"([^\s-]+)\s*(?:-|\s)\s*([^\s-]+)", line)
    if found is None:
        raise FieldError("ipAssignmentPools", f"ipAssignmentPools, line {number}: not FIRST - LAST: {line!r:.64}")
    return {"ipRangeStart": found[1], "ipRangeEnd": found[2]}
