"""VL2, virtual Ethernet: network configuration, membership, credentials, multicast, rules. Sans-IO."""
