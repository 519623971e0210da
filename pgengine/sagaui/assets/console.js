// Keeps a page fresh: asks for it again every data-refresh milliseconds, and puts the new one's <main> in the place of the
// old one's. Without this script a page is as it was when it was opened. What somebody has opened, scrolled or put the focus
// on stays so; while he types or selects, the page waits.
"use strict";
(() => {
  const main = document.getElementById("main");
  const said = document.getElementById("said");

  const busy = () => {
    const at = document.activeElement;
    const selection = document.getSelection();
    return document.hidden || (at && at.matches("input, select, textarea")) || (selection && selection.type === "Range");
  };

  // mark is how an element is found again in the new page.
  const mark = (e) => {
    if (!e || !main.contains(e)) return null;
    if (e.id) return "#" + CSS.escape(e.id);
    if (e.matches("summary") && e.parentElement.id) return "#" + CSS.escape(e.parentElement.id) + " > summary";
    const href = e.getAttribute("href");
    return href ? e.localName + '[href="' + CSS.escape(href) + '"]' : null;
  };

  const put = (fresh) => {
    if (fresh.innerHTML === main.innerHTML) return;
    const focus = mark(document.activeElement);
    const open = new Map([...main.querySelectorAll("details[id]")].map((d) => [d.id, d.open]));
    const scrolled = new Map([...main.querySelectorAll(".scroll[id]")].map((e) => [e.id, e.scrollLeft]));
    const was = main.querySelector("[data-state]")?.dataset.state;
    main.replaceChildren(...fresh.childNodes);
    for (const [id, is] of open) {
      const d = document.getElementById(id);
      if (d) d.open = is || d.open;
    }
    for (const [id, left] of scrolled) {
      const e = document.getElementById(id);
      if (e) e.scrollLeft = left;
    }
    if (focus) main.querySelector(focus)?.focus({ preventScroll: true });
    const is = main.querySelector("[data-state]")?.dataset.state;
    if (is && is !== was) said.textContent = "The saga is " + is + ".";
  };

  const again = async (wait) => {
    await new Promise((done) => setTimeout(done, wait));
    let next = wait;
    if (!busy()) {
      try {
        const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
        if (answer.ok) {
          const page = new DOMParser().parseFromString(await answer.text(), "text/html");
          const fresh = page.getElementById("main");
          put(fresh);
          main.dataset.refresh = fresh.dataset.refresh || "";
          next = Number(fresh.dataset.refresh || 0);
        }
      } catch {
        next = Math.min(wait * 2, 30000); // the console is away, and may come back
      }
    }
    if (next > 0) again(next);
  };

  // A step that the graph leads to opens itself.
  const reveal = () => {
    const step = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (step && step.localName === "details") step.open = true;
  };
  addEventListener("hashchange", reveal);
  reveal();

  const refresh = Number(main.dataset.refresh || 0);
  if (refresh > 0) again(refresh);
})();
