"""What the controller says to an administrator whose input it cannot use."""

from __future__ import annotations


class ControllerError(ValueError):
    """A setting or a stored document that the controller cannot act on; the text is one line for a person."""
