"""Numbers of the stack's ports."""

from __future__ import annotations

from ztnode.node.ports import Ports


def test_a_network_keeps_its_port_and_no_number_is_used_twice() -> None:
    ports = Ports()
    first, second = ports.open(7), ports.open(9)
    assert ports.open(7) == first != second
    assert ports.close(7) == first and ports.close(7) is None
    assert ports.open(7) not in (first, second)
    assert ports.nwid_of == {second: 9, ports.index_of[7]: 7}
