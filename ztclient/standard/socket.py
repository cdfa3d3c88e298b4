"""``import ztclient.socket as socket``: the standard ``socket`` module, over the overlay. See ztclient.sockets."""

import socket as _standard

from ztclient import sockets as _overlay

# Whatever the standard module has, private names too: other modules of the library use those.
globals().update({name: value for name, value in vars(_standard).items() if not name.startswith("__")})
globals().update({name: getattr(_overlay, name) for name in _overlay.__all__})

__all__ = [name for name in _standard.__all__]  # noqa: C416
