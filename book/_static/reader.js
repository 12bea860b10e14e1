/* A term's sentence on hover and focus; and what the search found, shown, in a fold too. */
(() => {
  const box = Object.assign(document.createElement("div"), {id: "lt-definition", hidden: true});
  box.setAttribute("role", "tooltip");
  let shown = null;
  const hide = () => {
    shown?.removeAttribute("aria-describedby");
    shown = null;
    box.hidden = true;
  };
  const show = (term) => {
    if (term === shown) return;
    hide();
    if (!box.isConnected) document.body.append(box);
    shown = term;
    box.textContent = term.dataset.definition;
    box.hidden = false;
    term.setAttribute("aria-describedby", box.id);
    const at = term.getClientRects()[0], wide = document.documentElement.clientWidth;
    const below = at.bottom + box.offsetHeight + 8 < innerHeight;
    box.style.left = `${scrollX + Math.max(8, Math.min(at.left, wide - box.offsetWidth - 8))}px`;
    box.style.top = `${scrollY + (below ? at.bottom + 4 : at.top - box.offsetHeight - 4)}px`;
  };
  document.querySelectorAll("a.lt-term[title]").forEach((term) => {
    term.dataset.definition = term.title;  // without a script the browser shows the title
    term.removeAttribute("title");
    for (const event of ["pointerenter", "focus"]) term.addEventListener(event, () => show(term));
    for (const event of ["pointerleave", "blur"]) term.addEventListener(event, hide);
  });
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });

  /* A link of the results takes along what was asked for. */
  const asked = new URLSearchParams(location.search);
  const results = document.getElementById("search-results");
  const extend = (event) => {
    const link = event.target.closest?.("a[href]");
    const words = document.querySelector("#search-input, .bd-search input[type=search], input[name=q]")?.value || asked.get("q");
    if (!link || !words || link.search.includes("found=")) return;
    const url = new URL(link.href);
    url.searchParams.set("found", words);
    link.href = url;
  };
  for (const event of ["pointerdown", "focusin", "click"]) results?.addEventListener(event, extend);

  /* The page opens what holds the first place with one of the words, and goes there. */
  const find = (words) => {
    const article = document.querySelector("article.bd-article");
    const walk = document.createTreeWalker(article, NodeFilter.SHOW_TEXT, (node) =>
      node.parentElement.closest("script, style, summary, svg, math, .headerlink, [hidden]")
        ? NodeFilter.FILTER_REJECT : NodeFilter.FILTER_ACCEPT);
    for (let node = walk.nextNode(); node; node = walk.nextNode()) {
      const text = node.textContent.toLowerCase();
      const word = words.find((one) => text.includes(one));
      if (!word) continue;
      const range = document.createRange();
      range.setStart(node, text.indexOf(word));
      range.setEnd(node, text.indexOf(word) + word.length);
      const mark = Object.assign(document.createElement("mark"), {className: "lt-found"});
      range.surroundContents(mark);
      return mark;
    }
    return null;
  };
  const unfold = (element) => {
    for (let at = element; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  };
  const words = (asked.get("found") ?? "").toLowerCase().trim();
  /* A link to an assertion opens the fold of its own cell. */
  const openCell = () => {
    const place = location.hash.startsWith("#result-") && document.getElementById(location.hash.slice(1));
    if (place) (place.closest(".cell") ?? place).querySelector("details")?.setAttribute("open", "");
  };
  addEventListener("load", () => {
    openCell();
    if (!words || results) return;
    const mark = find([words, ...words.split(/\s+/).filter((one) => one.length > 2)]);
    history.replaceState(null, "", location.pathname + location.hash);
    if (!mark) return;
    unfold(mark);
    mark.scrollIntoView({block: "center"});
  });
  addEventListener("hashchange", openCell);
})();
