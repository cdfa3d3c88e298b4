"""What the package exports, and that it costs nobody anything who wants a constant."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ztnode.netstack


@pytest.mark.parametrize("name", ztnode.netstack.__all__)
def test_every_name_of_the_contract_is_there(name: str) -> None:
    assert getattr(ztnode.netstack, name) is not None


@pytest.mark.parametrize("name", ["Stick", "stacks"])
def test_other_names_are_not(name: str) -> None:
    with pytest.raises(AttributeError, match=f"no attribute '{name}'"):
        getattr(ztnode.netstack, name)


def test_a_constant_does_not_load_the_stack() -> None:
    script = "import sys; from ztnode.netstack import LOOPED; sys.exit('ztnode.netstack.stack' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
