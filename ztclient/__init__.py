"""A thin client of a running ztnode: sockets and http.client over a ZeroTier network."""
