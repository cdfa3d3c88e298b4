"""What is said where the extra ``web`` is not installed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import cast

import pytest

import ztnode.web
from ztnode import serve
from ztnode.node.node import Node
from ztnode.web.options import WebOptions


@pytest.mark.parametrize(("page", "option"), [(True, "--web"), (False, "--api")])
def test_the_option_that_was_given_is_named(
    page: bool, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(ztnode.web, "web_server", raising=False)
    monkeypatch.setitem(sys.modules, "ztnode.web.web_server", None)

    async def enter() -> None:
        async with serve._api(WebOptions("127.0.0.1:1", None, None, False, page), cast("Node", None), tmp_path):
            pass

    with pytest.raises(ValueError, match=rf"^{option} needs .*ztnode\[web\]"):
        asyncio.run(enter())
