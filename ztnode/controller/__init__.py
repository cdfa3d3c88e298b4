"""The network controller: members, authorization, managed addresses, signed configurations. Sans-IO."""

from ztnode.controller.controller import (
    ControlledNetworkChanged,
    Controller,
    ControllerEvent,
    ControllerLimits,
    MemberChanged,
)
from ztnode.controller.controller_error import ControllerError
from ztnode.controller.documents import ControlledMember, ControlledNetwork
from ztnode.controller.parsed_documents import ParsedDocuments

__all__ = [
    "ControlledMember",
    "ControlledNetwork",
    "ControlledNetworkChanged",
    "Controller",
    "ControllerError",
    "ControllerEvent",
    "ControllerLimits",
    "MemberChanged",
    "ParsedDocuments",
]
