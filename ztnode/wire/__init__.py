"""Bytes to values and back: one file per protocol or message family; no state, no clock, no socket.

Bytes are parsed and built: ``parse_x(data)`` and ``build_x(value)``, or ``X.parse(data)`` and ``x.build()`` on a value
class; ``parse_from(reader)`` takes one value out of several. Text that people read is formatted. Nothing is exported
from here: who needs one protocol imports that.
"""
