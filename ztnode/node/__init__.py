"""The node process: event loop, sockets, timers, supervision. Glue alone.

``api`` is what the control plane acts on, ``start`` brings a node up. Nothing is imported here: what greets the roots
is there before the rest is loaded.
"""
