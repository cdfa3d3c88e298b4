"""``serve --web`` in a real Chromium: a network is made, a member appears, is let in by a click, and its traffic moves
the chart. ``ZTNODE_SCREENSHOTS=docs/images`` has the pictures of the documentation made on the way.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytest.importorskip("jinja2", reason="needs ztnode[web]")
pytest.importorskip("playwright.sync_api", reason="needs playwright")

from playwright.sync_api import Browser, BrowserContext, Page, Request, ViewportSize, expect, sync_playwright

import ztclient
from tests.system.harness import PORT, Handler, Overlay, until
from ztnode.embedded import EmbeddedMember

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

PATIENCE = 60_000
"""Milliseconds for what should take one or two seconds."""
expect.set_options(timeout=PATIENCE)
VIOLATIONS = (
    "addEventListener('securitypolicyviolation', event => report(event.violatedDirective + ' ' + event.blockedURI))"
)

FAULTS = (Path(__file__).parent / "accessibility.js").read_text()
ENDPOINT = re.compile(r"[0-9a-f\]]:\d{4,5}\b")
"""Some address of this host, and a port."""
CONTROLS = "a, button, summary, input:not([type=hidden]), select, textarea, [tabindex='0']"
NOTE_FOCUS = "() => { window.reached = new Set(); addEventListener('focusin', event => reached.add(event.target)); }"
NOT_REACHED = """controls => [...document.querySelectorAll(controls)]
  .filter(node => node.checkVisibility() && !reached.has(node)).map(node => node.outerHTML)"""


@dataclass(slots=True)
class Site:
    member: EmbeddedMember
    port: int
    token: str
    cookie: str
    browser: Browser
    contexts: list[BrowserContext] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    """Violations of the CSP, errors of scripts, and requests to other hosts."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def page(self, *, javascript: bool = True, stranger: bool = False) -> Page:
        """Of a new browser, which is logged in unless it is a ``stranger``'s."""
        size: ViewportSize = {"width": 1000, "height": 640}
        context = self.browser.new_context(base_url=self.url, viewport=size, java_script_enabled=javascript)
        self.contexts.append(context)
        context.set_default_timeout(PATIENCE)
        context.expose_function("report", lambda complaint: self.complaints.append(complaint))
        context.add_init_script(VIOLATIONS)
        if not stranger:
            name, _, value = self.cookie.partition("=")
            context.add_cookies([{"name": name, "value": value, "url": f"{self.url}/ui"}])

        def asked(request: Request) -> None:
            if not request.url.startswith(f"{self.url}/"):
                self.complaints.append(request.url)

        page = context.new_page()
        page.on("request", asked)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        return page

    def log_in(self, page: Page, token: str | None = None) -> None:
        page.goto("/")
        page.get_by_label("Token").fill(token or self.token)
        page.get_by_role("button", name="Log in").click()


@pytest.fixture(scope="module")
def site(overlay: Overlay) -> Iterator[Site]:
    member = overlay.network.add("page", "--controller", "--web", "--api", "127.0.0.1:0")
    member.wait_online()
    home = member.state / "zerotier"
    until(lambda: (home / "zerotier-one.port").exists())
    port, token = int((home / "zerotier-one.port").read_text()), (home / "authtoken.secret").read_text()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield Site(member, port, token, session(port, token), browser)
        browser.close()
    overlay.network.members.pop("page").stop()


@pytest.fixture(autouse=True)
def nothing_to_complain_of(site: Site) -> Iterator[None]:
    yield
    for context in site.contexts:
        context.close()
    site.contexts.clear()
    assert site.complaints == []


def session(port: int, token: str) -> str:
    """The cookie of one who has logged in."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST", "/ui/login", f"token={token}", {"Content-Type": "application/x-www-form-urlencoded"})
    cookie: str = connection.getresponse().headers["Set-Cookie"].partition(";")[0]
    connection.close()
    return cookie


def picture(page: Page, name: str) -> None:
    """For the documentation, where that is asked for."""
    if directory := os.environ.get("ZTNODE_SCREENSHOTS"):
        page.screenshot(path=Path(directory) / f"{name}.png", animations="disabled")


def test_a_wrong_token_and_the_right_one(site: Site) -> None:
    page = site.page(stranger=True)
    site.log_in(page, "not the token of this node")
    expect(page.get_by_role("alert")).to_contain_text("Token")
    expect(page.get_by_label("Token")).to_have_attribute("aria-invalid", "true")
    site.log_in(page)
    expect(page.get_by_role("heading", level=1)).to_contain_text(site.member.node.status().address)
    page.get_by_role("button", name="Log out").click()
    page.goto("/ui/networks")
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")


def test_a_member_appears_is_let_in_by_a_click_and_its_traffic_moves_the_chart(site: Site, overlay: Overlay) -> None:
    page = site.page()
    page.goto("/ui/networks")
    page.get_by_label("Name").fill("laboratory")
    page.get_by_label("Subnet").fill("10.77.0.0/24")
    page.get_by_role("button", name="Make it").click()
    expect(page.get_by_role("status").filter(has_text="Saved")).to_be_visible()
    nwid = page.url.rpartition("/")[2].partition("?")[0]

    # The node joins the network that it controls, by the form.
    page.get_by_role("link", name="Overview").click()
    page.get_by_label("Network id").fill(nwid)
    page.get_by_role("button", name="Join").click()
    expect(page.locator(f"#network-{nwid}")).to_contain_text("waiting for authorization")
    page.get_by_text("Code for a phone").click()
    expect(page.get_by_alt_text(f"QR code with which a phone joins network {nwid}")).to_be_visible()

    # Another one appears, without anything being loaded anew.
    page.goto(f"/ui/networks/{nwid}/members")
    page.evaluate("window.loaded = 'once'")
    overlay.alpha.node.join(nwid)
    alpha, own = overlay.alpha.node.status().address, site.member.node.status().address
    try:
        row = page.locator(f"#member-{alpha}")
        expect(row.get_by_role("button", name=f"Authorize {alpha}")).to_be_visible()
        expect(page.locator("#member-count")).to_have_text("2 members, 0 authorized, 2 waiting")
        assert page.evaluate("window.loaded") == "once"
        for address in (alpha, own):
            page.get_by_role("button", name=f"Authorize {address}").click()
            expect(page.locator(f"#member-{address}")).to_contain_text("authorized")
        expect(row).to_contain_text("10.77.0.")
        expect(row).to_contain_text("online")
        expect(row).to_contain_text(ENDPOINT)
        ip = next(a.partition("/")[0] for a in overlay.alpha.node.join(nwid, 30).addresses if ":" not in a)
        expect(row).to_contain_text(ip)
        page.get_by_role("link", name=alpha).click()
        page.get_by_label("Name").fill("printer on the second floor")
        page.get_by_role("button", name="Save").click()
        page.get_by_role("link", name="Members").click()
        expect(row).to_contain_text("second floor")
        picture(page, "page-members")
        here = next(a.partition("/")[0] for a in site.member.node.join(nwid, 30).addresses if ":" not in a)
        move_the_chart(site, page, overlay, nwid, here)
    finally:
        overlay.alpha.node.leave(nwid)
        site.member.node.leave(nwid)


def move_the_chart(site: Site, page: Page, overlay: Overlay, nwid: str, ip: str) -> None:
    with ztclient.HTTPServer((ip, PORT), Handler, node=site.member.node) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        page.goto("/ui/peers")
        before = page.locator("#line-out").get_attribute("points")
        rate = re.compile(r"([1-9]\d\d\.\d kB/s|MB/s) in the last")
        expect(page.locator("#throughput")).not_to_contain_text(rate)
        connection = ztclient.HTTPConnection(ip, PORT, timeout=30, node=overlay.alpha.node)
        connection.request("GET", "/8000000")
        answer = connection.getresponse()
        answer.read(1)
        beside = page.context.new_page()
        beside.goto("/ui/connections")
        expect(beside.get_by_role("row").filter(has_text=f"{ip}:{PORT}")).to_contain_text("established")
        assert len(answer.read()) == 7_999_999
        connection.close()
        expect(page.locator("#throughput")).to_contain_text(rate)
        assert page.locator("#line-out").get_attribute("points") != before
        expect(page.locator(f"#peer-{overlay.alpha.node.status().address}")).to_contain_text(ENDPOINT)
        peak = page.locator(f"#peer-{overlay.alpha.node.status().address} polyline.out")
        expect(peak).to_have_attribute("points", re.compile(r"\d+,0( |$)"))
        picture(page, "page-peers")
        page.get_by_role("link", name="Overview").click()
        expect(page.locator(f"#network-{nwid}")).to_contain_text(ip)
        picture(page, "page-overview")
        server.shutdown()
        thread.join()


def test_what_changes_leaves_alone_what_somebody_does(site: Site, overlay: Overlay) -> None:
    page = site.page()
    page.goto("/")
    page.get_by_label("Network id").fill(overlay.nwid)
    page.get_by_role("button", name="Join").click()
    page.get_by_text("Leave …").click()
    leave = page.get_by_role("button", name=f"Leave {overlay.nwid}")
    leave.focus()
    up = page.locator("#node").text_content()
    expect(page.locator("#node")).not_to_have_text(up or "")
    expect(leave).to_be_focused()
    leave.click()
    expect(page.locator("#network-count")).to_have_text("0 joined")
    page.route("**", lambda route: route.abort())
    expect(page.locator("#live")).to_contain_text("does not answer")
    page.unroute("**")
    expect(page.locator("#live")).to_be_hidden()
    page.context.clear_cookies()
    expect(page.locator("#live")).to_contain_text("logged out")


def test_all_of_it_without_javascript(site: Site) -> None:
    page = site.page(javascript=False)
    page.goto("/")
    for name in ("Peers", "Connections", "Logs", "Controller", "Overview"):
        page.get_by_role("link", name=name, exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_be_visible()
    page.get_by_role("link", name="Controller").click()
    page.get_by_role("button", name="Make it").click()
    page.get_by_label("Routes").fill("10.1.0.0/24\nnowhere")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#routes-error")).to_contain_text("nowhere")
    expect(page.get_by_label("Routes")).to_have_value("10.1.0.0/24\nnowhere")
    page.get_by_label("Routes").fill("10.1.0.0/24 via 10.1.0.1")
    page.get_by_label("DNS search domain").fill("lab.example")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status").filter(has_text="Saved")).to_be_visible()
    page.get_by_role("link", name="Rules").click()
    page.get_by_label("Rules, capabilities and tags").fill("drop\n  not ethertype ipv9\n;\naccept;")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#rules-error")).to_contain_text("line 2, column 17")
    page.get_by_label("Rules, capabilities and tags").fill("drop not ethertype ipv4;\naccept;  # the rest")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_label("Rules, capabilities and tags")).to_have_value(re.compile("# the rest"))
    page.get_by_role("link", name="Settings").click()
    page.get_by_text("Delete this network …").click()
    page.get_by_label("It goes for all").check()
    page.get_by_role("button", name="Delete this network").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Networks of this controller")


def test_nobody_is_kept_out(site: Site) -> None:
    """By hand of what tools for it check: names, landmarks, order of headings, contrast; and every control by Tab."""
    nwid = ask(site, "POST", "/controller/network", {"name": "many", "routes": [{"target": "10.0.0.0/8"}]})["id"]
    for number in (1, 2):
        ask(site, "POST", f"/controller/network/{nwid}/member/123456789{number}", {"authorized": number == 1})
    page = site.page(stranger=True)
    page.goto("/")
    faults = {"login": faults_of(page)}
    page = site.page()
    network = f"/networks/{nwid}"
    member = f"{network}/members/1234567891"
    for path in ("/", "/peers", "/connections", "/logs", "/networks", network, f"{network}/members", member):
        page.goto(f"/ui{path}")
        faults[path] = faults_of(page)
        page.evaluate(NOTE_FOCUS)
        for _ in range(page.locator(CONTROLS).count() + 2):
            page.keyboard.press("Tab")
        assert page.evaluate(NOT_REACHED, CONTROLS) == [], path
    page.goto(f"/ui{network}/rules")
    picture(page, "page-rules")
    page.goto(f"/ui{network}")
    page.get_by_label("MTU").fill("12")
    page.get_by_label("MTU").evaluate("node => node.form.noValidate = true")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_contain_text("mtu must be")
    faults["error"] = faults_of(page)
    ask(site, "DELETE", f"/controller/network/{nwid}")
    assert not any(faults.values()), faults


def faults_of(page: Page) -> list[str]:
    """By day and by night."""
    found: list[str] = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found += page.evaluate(FAULTS)
    return found


def ask(site: Site, method: str, path: str, body: object = None) -> dict[str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=20)
    connection.request(method, path, json.dumps(body), {"X-ZT1-Auth": site.token})
    found: dict[str, str] = json.loads(connection.getresponse().read())
    connection.close()
    return found
