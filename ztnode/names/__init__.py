"""Names of the overlay: the networks' own DNS domains, asked over the overlay, a hosts file, and ``<address>.zt``.

The host's resolver is never asked for any of them, and the networks' servers for no other name.
"""

from ztnode.names.resolver import Found, Resolver

__all__ = ["Found", "Resolver"]
