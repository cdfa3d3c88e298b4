"""Bytes to values and back: one file per protocol or message family; no state, clocks, sockets or logging."""
