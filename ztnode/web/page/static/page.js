// Brings the parts of this page that change (data-live) up to date. All of it can be read and done without this.
"use strict";

const PERIOD = 2000;
const notice = document.getElementById("live");

function say(text) {
  if (notice.textContent !== text) notice.textContent = text;
  notice.hidden = !text;
}

// What is the same stays the same node: focus, what was typed and a click under way survive.
function renew(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || (old.id ?? "") !== (fresh.id ?? "")) {
    old.replaceWith(fresh);
  } else if (old.nodeType !== Node.ELEMENT_NODE) {
    old.data = fresh.data;
  } else {
    renewAttributes(old, fresh);
    renewChildren(old, fresh);
  }
}

function renewAttributes(old, fresh) {
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name); // what somebody opened stays open
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
}

function renewChildren(old, fresh) {
  const wanted = new Set([...fresh.children].map((child) => child.id).filter(Boolean));
  const known = new Map([...old.children].filter((child) => child.id).map((child) => [child.id, child]));
  let at = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    while (at && at.id && !wanted.has(at.id)) {
      const gone = at;
      at = at.nextSibling;
      gone.remove();
    }
    if (child.id && at?.id !== child.id) {
      const kept = known.get(child.id);
      old.insertBefore(kept ?? child, at);
      if (kept) renew(kept, child);
    } else if (at) {
      const next = at.nextSibling;
      if (!child.id && at.id) old.insertBefore(child, at);
      else {
        renew(at, child);
        at = next;
      }
    } else {
      old.append(child);
    }
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

async function look() {
  const answer = await fetch(location.href, { headers: { "X-By-Itself": "1" }, redirect: "error", cache: "no-store" });
  if (answer.status === 401) {
    say("You are logged out: load the page anew.");
    return false;
  }
  if (!answer.ok) throw new Error(answer.statusText);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of document.querySelectorAll("[data-live]")) {
    const fresh = page.getElementById(part.id);
    if (fresh) renew(part, fresh);
  }
  say("");
  return true;
}

async function keepLooking() {
  let goesOn = true;
  if (!document.hidden) {
    try {
      goesOn = await look();
    } catch {
      say("The node does not answer; what is shown may be old.");
    }
  }
  if (goesOn) setTimeout(keepLooking, PERIOD);
}

if (document.querySelector("[data-live]")) setTimeout(keepLooking, PERIOD);
