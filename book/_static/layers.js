/* What a page needs beyond <details>: a link into a fold opens it, printing opens all, a
   reader's prediction is compared with what the page measured, by exercises.predict's rule. */
(() => {
  const open = (element) => {
    for (; element; element = element.parentElement) if (element.tagName === "DETAILS") element.open = true;
  };
  const jump = () => {
    const name = decodeURIComponent(location.hash.slice(1));
    const target = name && document.getElementById(name);
    if (!target) return;
    open(target);
    target.querySelector(":scope > details.lt-detour")?.setAttribute("open", "");
    target.scrollIntoView();
  };
  const number = (text) => Number(text.replaceAll(",", ""));

  /* What predict() printed in the fold after the cell: the number, and the tolerance in its call. */
  const measurements = (fold) => [...fold.querySelectorAll(".cell")].flatMap((cell) => {
    const calls = (cell.querySelector(".cell_input")?.textContent ?? "").split(/\bpredict\(/).slice(1);
    const said = [...cell.querySelectorAll(".cell_output pre")].flatMap((pre) =>
      [...pre.textContent.matchAll(/^ {2}measured ([-+\d.,e]+)(.*)$/gm)]);
    return said.map(([, value, unit], k) => ({
      value, unit, tolerance: Number((calls[Math.min(k, calls.length - 1)] ?? "").match(/tolerance=([\d.]+)/)?.[1] ?? 0.1),
    }));
  });

  const ask = (cell) => {
    const following = (fold) => cell.compareDocumentPosition(fold) & Node.DOCUMENT_POSITION_FOLLOWING;
    const fold = [...document.querySelectorAll("details.lt-answer")].find(following);
    const boxes = [...cell.querySelector("pre").textContent.matchAll(/^(\w+) = None +# *(.+)$/gm)];
    const measured = fold ? measurements(fold) : [];
    if (!boxes.length || boxes.length !== measured.length) return;
    const form = document.createElement("form");
    form.className = "lt-predict";
    const inputs = boxes.map(([, , what]) => {
      const label = form.appendChild(document.createElement("label"));
      label.append(boxes.length > 1 ? "" : "Your prediction: ", what, " ");
      const input = label.appendChild(document.createElement("input"));
      Object.assign(input, {type: "number", step: "any", required: true, autocomplete: "off"});
      return input;
    });
    form.append(Object.assign(document.createElement("button"), {textContent: "Commit"}));
    const verdict = form.appendChild(document.createElement("output"));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      verdict.replaceChildren(...inputs.map((input, k) => {
        const guess = input.valueAsNumber, {value, unit, tolerance} = measured[k];
        const most = Math.max(Math.abs(guess), Math.abs(number(value)));
        const close = Math.abs(guess - number(value)) <= Math.max(tolerance * most, tolerance);
        const line = document.createElement("span");
        line.textContent = `You said ${guess}, measured ${value}${unit}: ` +
          (close ? "close." : "off. Find out why before reading on.");
        return line;
      }));
      open(fold);
    });
    cell.hidden = true;
    cell.after(form);
  };

  document.querySelectorAll(".cell.tag_predict").forEach(ask);
  addEventListener("hashchange", jump);
  addEventListener("beforeprint", () => document.querySelectorAll("details.lt-fold")
    .forEach((fold) => { fold.open = true; }));
  if (location.hash) addEventListener("load", jump);

  // Paper is white.
  const root = document.documentElement.dataset;
  addEventListener("beforeprint", () => { [root.screen, root.theme] = [root.theme, "light"]; });
  addEventListener("afterprint", () => { root.theme = root.screen ?? root.theme; });

  // A wide equation is moved by keys too, and what is copied has an equation's TeX.
  const near = new IntersectionObserver((all) => all.filter((a) => a.isIntersecting)
    .map(({target: box}) => [box, box.scrollWidth > box.clientWidth + 1])
    .forEach(([box, wide]) => { if (wide) box.tabIndex = 0; }), {rootMargin: "100% 0px"});
  document.querySelectorAll(".equation").forEach((box) => near.observe(box));
  document.addEventListener("copy", (event) => {
    const selected = getSelection();
    if (selected.isCollapsed) return;
    const range = selected.getRangeAt(0).cloneRange();
    const around = (node) => (node.closest ? node : node.parentElement)?.closest("math");
    const first = around(range.startContainer), last = around(range.endContainer);
    if (first) range.setStartBefore(first);  // of an equation there is the whole
    if (last) range.setEndAfter(last);
    const part = document.createElement("div");
    part.append(range.cloneContents());
    if (!part.querySelector("annotation")) return;
    event.clipboardData.setData("text/html", part.innerHTML);
    part.querySelectorAll("script, style, .headerlink").forEach((unseen) => unseen.remove());
    part.querySelectorAll(".eqno").forEach((number) => number.parentElement.append(" ", number));
    part.querySelectorAll("math").forEach((made) => {
      const sign = made.getAttribute("display") === "block" ? "$$" : "$";
      made.replaceWith(sign + made.querySelector("annotation").textContent + sign);
    });
    event.clipboardData.setData("text/plain", part.textContent.trim());
    event.preventDefault();
  });
})();
