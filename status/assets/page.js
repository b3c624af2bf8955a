// Keeps the page up to date. Sections that have changed are replaced; what has the focus,
// and what was scrolled or opened, stays so.
"use strict";
(() => {
  const live = document.getElementById("live");
  const link = document.getElementById("link");
  const said = new Map();

  const say = (state, text) => {
    link.dataset.state = state;
    if (link.textContent !== text) link.textContent = text;
  };

  const replace = (now, next) => {
    if (said.get(now.id) === next.innerHTML) return;
    said.set(now.id, next.innerHTML);
    const focused = now.contains(document.activeElement) ? document.activeElement.id : "";
    const scrolled = new Map();
    for (const e of now.querySelectorAll("[id]")) {
      if (e.scrollLeft) scrolled.set(e.id, e.scrollLeft);
    }
    now.replaceChildren(...next.childNodes);
    for (const [id, left] of scrolled) {
      const e = document.getElementById(id);
      if (e) e.scrollLeft = left;
    }
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  };

  const show = (html) => {
    const next = new DOMParser().parseFromString(html, "text/html").getElementById("live");
    if (!next) return;
    for (const section of [...next.children]) {
      const now = document.getElementById(section.id);
      if (!now) {
        live.append(section);
        continue;
      }
      if (section.id === "sentence") { // it is read aloud: only if it says something new
        if (now.textContent.trim() === section.textContent.trim()) continue;
        now.className = section.className;
      }
      replace(now, section);
    }
  };

  let source;
  const follow = () => {
    source = new EventSource("live");
    source.addEventListener("page", (e) => {
      say("on", "live");
      show(e.data);
    });
    source.addEventListener("error", () => {
      say("off", "not connected: what is shown may be old");
      if (source.readyState === EventSource.CLOSED) setTimeout(follow, 5000);
    });
  };
  follow();
  addEventListener("pagehide", () => source.close());
  addEventListener("pageshow", (e) => { if (e.persisted) follow(); });
})();
