// Renews the content of a page without loading it again. Everything works without this script.
"use strict";
const seconds = Number(document.body.dataset.refresh);
// While the stream of changes is open, figures alone are renewed this often.
const quietSeconds = 60;
let due = false, stream = null, renewedAt = Date.now();

// Nothing is renewed under the fingers of somebody who fills in a form, or while the page is not looked at.
function busy() {
  const at = document.activeElement;
  const writes = at && at.closest("form") && !at.closest("button");
  return document.hidden || writes || document.querySelector("main details[open] form") !== null;
}

async function renew() {
  if (busy()) return;
  due = false;
  renewedAt = Date.now();
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (answer.status === 401) return location.reload();
  if (!answer.ok || busy()) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const open = new Set([...document.querySelectorAll("main details[open]")].map((each) => each.id));
  page.querySelectorAll("main details").forEach((each) => { each.open = open.has(each.id); });
  const focused = document.activeElement && document.activeElement.id;
  // A notice is shown once by the server, and stays until the page is left.
  const notice = document.getElementById("notice");
  document.querySelector("main").replaceWith(page.querySelector("main"));
  if (notice && !document.getElementById("notice")) document.querySelector("main").prepend(notice);
  if (focused && document.getElementById(focused)) document.getElementById(focused).focus();
  document.title = page.title;
}

// The browser comes back by itself after a break. Where the server has no place, the clock alone renews.
function listen() {
  stream = new EventSource("/events");
  stream.addEventListener("changed", () => { due = true; });
  stream.onopen = () => { due = true; };
}

if (seconds > 0) {
  if ("EventSource" in window) listen();
  setInterval(() => {
    const every = stream && stream.readyState === EventSource.OPEN ? quietSeconds : seconds;
    if (due || Date.now() - renewedAt >= every * 1000) renew().catch(() => {});
  }, 1000);
}
