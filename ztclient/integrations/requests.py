"""requests over the overlay.

from ztclient.integrations.requests import session

with session() as http:
    print(http.get("http://10.121.15.99:5380/").text)
"""

from __future__ import annotations

from typing import Any

import requests
import requests.adapters

from ztclient.integrations.urllib3 import PoolManager
from ztclient.node import Node


class OverlayAdapter(requests.adapters.HTTPAdapter):
    """A transport adapter, to be mounted on a Session for whichever prefix shall go over the overlay: ``http://db.lab/``,
    or ``http://`` and ``https://``. ``node``: a Node or its address; left out, it is found."""

    def __init__(self, *args: Any, node: Node | str | None = None, **kwargs: Any) -> None:
        self.node = node  # before init_poolmanager is called
        super().__init__(*args, **kwargs)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any) -> None:
        """See HTTPAdapter."""
        self.poolmanager = PoolManager(
            num_pools=connections, maxsize=maxsize, block=block, node=self.node, **pool_kwargs
        )

    def send(self, request: Any, *args: Any, **kwargs: Any) -> requests.Response:
        """See HTTPAdapter. Proxies of the environment lead to the host's networks: they are not used."""
        if "proxies" in kwargs:
            kwargs["proxies"] = None
        return super().send(request, *args, **kwargs)


def session(node: Node | str | None = None, **options: Any) -> requests.Session:
    """A Session whose requests all go over the overlay. ``options`` go to the adapter (``max_retries``...)."""
    made = requests.Session()
    for prefix in ("http://", "https://"):
        made.mount(prefix, OverlayAdapter(node=node, **options))
    return made
