"""Every TCP test watches over the state diagram."""

from __future__ import annotations

import pytest

from ztnode.netstack.tcp import ending
from ztnode.netstack.tcp.state import TAKEN_ELSEWHERE, Event, State, next_state


@pytest.fixture(autouse=True)
def _no_connection_takes_what_is_not_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def checked(state: State, event: Event) -> State:
        assert (state, event) not in TAKEN_ELSEWHERE, (state, event)
        return next_state(state, event)

    monkeypatch.setattr(ending, "next_state", checked)
