"""Labs with real programs: NAT routers, several links, broken wires, restarts and floods, in network namespaces.

    ZEROTIER_ONE=path/to/zerotier-one python -m tests.lab                  what there is
    ZEROTIER_ONE=path/to/zerotier-one python -m tests.lab rebind cut       both, ours and the reference in turns
    ... python -m tests.lab --peer ours rebind                             with a node of ours at the other end, too

Each scenario is run with a node of ours in the place that is examined, and with the reference's in the same place.
Root, controller and peer are the reference's unless a scenario says otherwise. Needs root, iproute2, nftables,
conntrack and curl. What is quick and sure is a test as well: ``tests/netns/test_lab.py``.
"""
