"use strict";
// The page as the agent makes it now takes the place of the one before. Its text was escaped by the agent, and no script runs in it.
const EVERY_MS = 3000;
const stale = document.getElementById("stale");
async function refresh() {
  const reading = String(document.getSelection()) !== "";
  if (!document.hidden && !reading) {
    try {
      const answer = await fetch(location.pathname, { cache: "no-store", signal: AbortSignal.timeout(2 * EVERY_MS) });
      if (!answer.ok) throw new Error(answer.statusText);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      document.querySelector("main").replaceWith(document.adoptNode(page.querySelector("main")));
      stale.hidden = true;
      document.getElementById("live").textContent = "as of " + new Date().toLocaleTimeString() + " ·";
    } catch {
      stale.hidden = false;
    }
  }
  setTimeout(refresh, EVERY_MS);
}
setTimeout(refresh, EVERY_MS);
