"""Rules and capabilities of a network together, for one flow. Source: reference Network.cpp, filterOutgoingPacket and
filterIncomingPacket."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

from ztnode.vl2.rule_filter import (
    ACCEPT,
    DEAR,
    DROP,
    NO_MATCH,
    REDIRECT,
    SUPER_ACCEPT,
    Copy,
    EthernetFlow,
    Filter,
    Outcome,
)
from ztnode.wire.buffer import Buffer
from ztnode.wire.frame import EXT_FLAG_ACK_REQUESTED, EXT_FLAG_INBOUND, EXT_FLAG_REDIRECT, EXT_FLAG_TEE
from ztnode.wire.rules import Rule

REFUSED: Final = 0
PASSED: Final = 1
PASSED_UNCHECKED: Final = 2
"""Passed as the target of a TEE or REDIRECT: checks of MACs and bridging do not apply."""

Forwarder: TypeAlias = Callable[[int, int, Buffer], None]
"""Sends a copy to a ZeroTier address: ``forward(address, EXT_FRAME flags, Ethernet payload)``."""


class FlowFilter:
    """Decides for the frames of one flow. ``constant``: the verdict if it is the same for all and nothing is copied."""

    __slots__ = ("_afford", "_capabilities", "_forward", "_inbound", "_rules", "constant", "cost")

    def __init__(
        self,
        rules: Sequence[Rule],
        capabilities: Iterable[Sequence[Rule]],
        flow: EthernetFlow,
        forward: Forwarder,
        afford: Callable[[int], bool] = lambda _matches: True,
    ) -> None:
        """``capabilities`` are the sender's, in ascending order of id; they count where the rules do not decide.
        ``afford`` says whether so many matches may be looked at once more."""
        self._afford = afford
        self._inbound = flow.inbound
        self._forward = forward
        self._rules = Filter(rules, flow)
        decided = self._rules.constant
        open_ended = decided is None or decided.verdict == NO_MATCH
        self._capabilities = [Filter(capability, flow) for capability in capabilities] if open_ended else []
        self.cost = self._rules.cost + sum(capability.cost for capability in self._capabilities)
        """Matches that one frame may need."""
        self.constant = self._constant()

    def _constant(self) -> int | None:
        outcomes = [self._rules.constant]
        if outcomes[0] is not None and outcomes[0].verdict == NO_MATCH:
            outcomes += [capability.constant for capability in self._capabilities]
        if any(outcome is None or outcome.copy or outcome.verdict == REDIRECT for outcome in outcomes):
            return None
        return self.passes(b"")

    def passes(self, payload: Buffer, *, copies: bool = True) -> int:
        """REFUSED, PASSED or PASSED_UNCHECKED; sends what TEE, WATCH and REDIRECT demand. ``copies`` False: no TEE or
        WATCH, for the passes that ask once per recipient after the one for the frame as such."""
        outcome = self._outcome(self._rules, payload)
        if outcome is None:
            return REFUSED
        verdict, copy, redirect = outcome
        if verdict == DROP:
            return REFUSED
        if verdict == NO_MATCH:
            granted = self._granted(payload)
            if granted is None:
                return REFUSED
            verdict, its_copy, redirect = granted
            if its_copy is not None and copies:
                self._send_copy(its_copy, payload)
        if copy is not None and copies:
            self._send_copy(copy, payload)
        if verdict == REDIRECT:
            flags = EXT_FLAG_INBOUND | EXT_FLAG_TEE if self._inbound else EXT_FLAG_REDIRECT
            self._forward(redirect, flags, payload)
            return REFUSED
        return PASSED_UNCHECKED if verdict == SUPER_ACCEPT else PASSED

    def _outcome(self, rules: Filter, payload: Buffer) -> Outcome | None:
        """None if the rules cost more than the network may spend."""
        if rules.constant is not None:
            return rules.constant
        if rules.cost < DEAR:
            return rules.evaluate(payload)
        return rules.known(payload) or (rules.learn(payload) if self._afford(rules.cost) else None)

    def _granted(self, payload: Buffer) -> Outcome | None:
        for capability in self._capabilities:
            outcome = self._outcome(capability, payload)
            if outcome is None:
                return None
            if outcome.verdict in (ACCEPT, SUPER_ACCEPT, REDIRECT):
                return outcome
        return None

    def _send_copy(self, copy: Copy, payload: Buffer) -> None:
        flags = EXT_FLAG_INBOUND if self._inbound else EXT_FLAG_TEE
        if copy.watch:
            flags |= EXT_FLAG_REDIRECT | EXT_FLAG_ACK_REQUESTED
        self._forward(copy.address, flags, payload[: copy.length] if copy.length else payload)
