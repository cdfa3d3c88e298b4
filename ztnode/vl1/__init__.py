"""VL1, the peer-to-peer transport: keys, peers, paths, roots, relaying, fragments, verbs. Sans-IO."""
