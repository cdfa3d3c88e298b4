"""What a router that speaks UPnP may make us do; ``tests/netns/test_port_mapping.py`` has a real one."""

from __future__ import annotations

import asyncio
import http.server
import threading
from collections.abc import Iterator

import pytest

pytest.importorskip("async_upnp_client")

from async_upnp_client.const import HttpRequest
from async_upnp_client.exceptions import UpnpConnectionError

from ztnode.node.pcp import PortMappingError
from ztnode.node.upnp import MAX_ANSWER, Upnp, _Requester


class Router(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(302 if self.path == "/elsewhere" else 200)
        if self.path == "/elsewhere":
            self.send_header("Location", "http://127.0.0.2:1/")
        self.end_headers()
        self.wfile.write(b"x" * (2 * MAX_ANSWER if self.path == "/long" else 5))

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def router() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Router) as server:
        threading.Thread(target=server.serve_forever, daemon=True, args=(0.01,)).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def ask(url: str) -> tuple[int, str]:
    answer = asyncio.run(_Requester("127.0.0.1").async_http_request(HttpRequest("GET", url, {}, None)))
    return answer.status_code, str(answer.body)


def test_only_the_router_itself_is_asked(router: str) -> None:
    assert ask(router + "/") == (200, "xxxxx")
    assert ask(router + "/elsewhere")[0] == 302, "and nobody is asked for it"
    for other in ("http://127.0.0.2:1/", "http://localhost:1/", "http://127.0.0.1@127.0.0.2:1/", "file:///etc/passwd"):
        with pytest.raises(UpnpConnectionError, match="another host"):
            ask(other)


def test_a_long_answer_is_not_read_to_its_end(router: str) -> None:
    with pytest.raises(UpnpConnectionError, match="too much"):
        ask(router + "/long")


def test_nonsense_in_the_end_is_no_mapping_given_back() -> None:
    class Service:
        def action(self, _name: str) -> Service:
            return self

        async def async_call(self, **_arguments: object) -> None:
            # What the library lets through, such as defusedxml's EntitiesForbidden for a bomb of entities.
            raise ValueError("EntitiesForbidden(name='a')")

    router = Upnp("127.0.0.1")
    router._service = Service()  # type: ignore[assignment]
    with pytest.raises(PortMappingError, match="EntitiesForbidden"):
        asyncio.run(router.unmap(9993))
