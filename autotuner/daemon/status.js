"use strict";
// Replaces what the page shows without a reload, so that scroll position and selection stay.
async function refresh() {
  if (document.hidden || String(getSelection())) return;
  try {
    const answer = await fetch(location.href, { cache: "no-store" });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.querySelector("main").replaceWith(page.querySelector("main"));
    document.body.classList.remove("lost");
  } catch {
    document.body.classList.add("lost");
  }
}
setInterval(refresh, 2000);
