"""NETWORK_CONFIG_REQUEST, what a node says of itself in it, and the SSO details in the ERROR that may answer it.

Source: reference Network::requestConfiguration, NetworkConfig.hpp (keys), Packet.hpp (VERB_NETWORK_CONFIG_REQUEST).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ztnode.wire.buffer import Buffer
from ztnode.wire.capability import MAX_CAPABILITY_RULES
from ztnode.wire.dictionary import Dictionary
from ztnode.wire.network_config import (
    MAX_CAPABILITIES,
    MAX_TAGS,
    NETWORK_CONFIG_VERSION,
    SingleSignOn,
)
from ztnode.wire.packet import PROTOCOL_VERSION
from ztnode.wire.reader import Reader
from ztnode.wire.rules import MAX_NETWORK_RULES
from ztnode.wire.wire_error import WireError

MAX_METADATA_SIZE: Final = 1024
"""Bytes of request metadata that current controllers keep room for (ZT_NETWORKCONFIG_METADATA_DICT_CAPACITY)."""

MAX_AUTH_INFO_SIZE: Final = 8192
RULES_ENGINE_REVISION: Final = 1
_VENDOR_ZEROTIER: Final = 1
_KEY_EPHEMERAL: Final = "ztnode.e"
_KEY_GOODBYE: Final = "ztnode.bye"


@dataclass(frozen=True, slots=True)
class RequestMetadata:
    """What the member can do, which controllers read before they answer.

    ``auth_token`` admits to networks that ask for one.
    """

    config_version: int = NETWORK_CONFIG_VERSION
    protocol: int = PROTOCOL_VERSION
    version: tuple[int, int, int] = (0, 0, 0)
    max_rules: int = MAX_NETWORK_RULES
    max_capabilities: int = MAX_CAPABILITIES
    max_capability_rules: int = MAX_CAPABILITY_RULES
    max_tags: int = MAX_TAGS
    rules_engine_revision: int = RULES_ENGINE_REVISION
    os_arch: str = ""
    auth_token: str = ""
    ephemeral: bool = False
    """This node's identity ends with it: whoever keeps members may forget it soon. Ours; others ignore the key."""
    goodbye: bool = False
    """It ends now, and wants no configuration. Ours; others answer as always, which nobody hears."""

    def build_dictionary(self) -> Dictionary:
        """The metadata as it is sent."""
        result = Dictionary()
        for key, value in (
            ("v", self.config_version),
            ("vend", _VENDOR_ZEROTIER),
            ("pv", self.protocol),
            ("majv", self.version[0]),
            ("minv", self.version[1]),
            ("revv", self.version[2]),
            ("mr", self.max_rules),
            ("mc", self.max_capabilities),
            ("mcr", self.max_capability_rules),
            ("mt", self.max_tags),
            ("f", 0),
            ("revr", self.rules_engine_revision),
        ):
            result.put_unsigned(key, value)
        if self.os_arch:
            result.put_text("o", self.os_arch)
        if self.auth_token:
            result.put_text("a", self.auth_token)
        for key, said in ((_KEY_EPHEMERAL, self.ephemeral), (_KEY_GOODBYE, self.goodbye)):
            if said:
                result.put_unsigned(key, 1)
        return result

    @classmethod
    def parse_dictionary(cls, source: Dictionary) -> RequestMetadata:
        """The metadata of a request; what is missing reads as 0 or empty."""
        return cls(
            config_version=source.unsigned("v"),
            protocol=source.unsigned("pv"),
            version=(source.unsigned("majv"), source.unsigned("minv"), source.unsigned("revv")),
            max_rules=source.unsigned("mr"),
            max_capabilities=source.unsigned("mc"),
            max_capability_rules=source.unsigned("mcr"),
            max_tags=source.unsigned("mt"),
            rules_engine_revision=source.unsigned("revr"),
            os_arch=source.text("o"),
            auth_token=source.text("a"),
            ephemeral=bool(source.unsigned(_KEY_EPHEMERAL)),
            goodbye=bool(source.unsigned(_KEY_GOODBYE)),
        )


@dataclass(frozen=True, slots=True)
class ConfigRequest:
    """``revision`` and ``timestamp`` are those of the configuration that the member has, 0 for none."""

    network_id: int
    metadata: Dictionary
    revision: int = 0
    timestamp: int = 0

    @classmethod
    def parse(cls, payload: Buffer) -> ConfigRequest:
        """Parse the payload; old nodes end it after the network id or the metadata. Raises WireError."""
        reader = Reader(payload)
        network_id = reader.u64()
        metadata = Dictionary()
        revision = timestamp = 0
        if reader.remaining >= 2:
            length = reader.u16()
            if length > MAX_METADATA_SIZE:
                raise WireError(f"request metadata of {length} bytes")
            metadata = Dictionary.parse(reader.take(length))
            if reader.remaining >= 16:
                revision, timestamp = reader.u64(), reader.u64()
        return cls(network_id, metadata, revision, timestamp)

    def build(self) -> bytes:
        """The payload."""
        metadata = self.metadata.build()
        return (
            self.network_id.to_bytes(8, "big")
            + len(metadata).to_bytes(2, "big")
            + metadata
            + self.revision.to_bytes(8, "big")
            + self.timestamp.to_bytes(8, "big")
        )


def build_auth_info(sso: SingleSignOn) -> bytes:
    """What follows the network id in ERROR_NETWORK_AUTHENTICATION_REQUIRED: a length (2 bytes) and a dictionary."""
    result = Dictionary()
    result.put_unsigned("aV", sso.version)
    if sso.version == 0:
        result.put_text("aU", sso.authentication_url)
    else:
        for key, value in (
            ("iU", sso.issuer_url),
            ("aCU", sso.central_url),
            ("aN", sso.nonce),
            ("aS", sso.state),
            ("aCID", sso.client_id),
            ("aSSOp", sso.provider),
        ):
            result.put_text(key, value)
    data = result.build()
    return len(data).to_bytes(2, "big") + data


def parse_auth_info(data: Buffer) -> SingleSignOn:
    """The inverse of ``build_auth_info``; nothing at all means that a login is required without a known URL.

    Source: reference IncomingPacket::_doERROR. Raises WireError.
    """
    if len(data) <= 2:
        return SingleSignOn(enabled=True)
    reader = Reader(data)
    source = Dictionary.parse(reader.take(reader.u16()), MAX_AUTH_INFO_SIZE)
    version = source.unsigned("aV")
    return SingleSignOn(
        enabled=True,
        version=version,
        authentication_url=source.text("aU"),
        issuer_url=source.text("iU"),
        central_url=source.text("aCU"),
        nonce=source.text("aN"),
        state=source.text("aS"),
        client_id=source.text("aCID"),
        provider=source.text("aSSOp") or ("default" if version else ""),
    )
