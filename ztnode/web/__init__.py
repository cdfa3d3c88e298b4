"""HTTP: the local service API of ZeroTier One, so that its tools and user interfaces work with this node.

aiohttp serves it, which runs in a loop that is not its own and leaves signals alone (uvicorn takes them). It is the
extra ``ztnode[web]`` and is imported only when an address is given.
"""
