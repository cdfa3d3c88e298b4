"""The host on the virtual Ethernet: neighbours, routes, IP, ICMP, UDP, TCP. Sans-IO."""
