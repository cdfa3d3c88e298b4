"""HTTP: the local service API of ZeroTier One, so that its tools and user interfaces work with this node.

Starlette routes and uvicorn serves, with httptools: zerotier-cli sends no Host, at which h11 and aiohttp stop. They are
the extra ``ztnode[web]`` and are imported only when an address is given.
"""
