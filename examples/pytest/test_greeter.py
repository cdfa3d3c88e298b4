"""A service of one's own and its test over ZeroTier: install ztnode and pytest, then ``pytest``.

The fixtures come with ztnode; they start a root, a controller and nodes on this machine, and end them.
"""

import http.server
import threading

import ztclient


class Greeter(http.server.BaseHTTPRequestHandler):
    """Tells a visitor the address that it came from."""

    def do_GET(self) -> None:
        body = f"hello, {self.client_address[0]}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_a_visitor_is_greeted_by_its_address(zerotier_network, zerotier_node) -> None:
    """``zerotier_node`` serves; another member, added here, visits."""
    (visitor,) = zerotier_network.add()
    with ztclient.HTTPServer((zerotier_node.ips()[0], 8080), Greeter, node=zerotier_node) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        connection = ztclient.HTTPConnection(*server.server_address[:2], timeout=10, node=visitor)
        connection.request("GET", "/")
        assert connection.getresponse().read().decode() == f"hello, {visitor.ips()[0]}"
        connection.close()
        server.shutdown()


def test_the_controller_knows_its_members(zerotier_network, zerotier_node) -> None:
    members = zerotier_network.controller.members(zerotier_network.nwid)
    assert zerotier_node.status().address in {member.address for member in members}
