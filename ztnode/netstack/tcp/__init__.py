"""TCP (RFC 9293): ``layer`` is its door, ``connection`` and ``listener`` are what owners hold; ``tcb`` is the leaf that
the modules in between move. What owners need is exported by ``ztnode.netstack``."""
