/* Four rules for h′ = a h + 1, and the exact state, at the chosen step and rate. */
(() => {
  const box = document.currentScript.closest("[data-interactive]");
  const {left, right, top, bottom, low, high, end} =
    JSON.parse(box.querySelector("script[type='application/json']").textContent);
  const get = (name) => Number(box.querySelector(`[data-input=${name}]`).value);
  const put = (name, text) => { box.querySelector(`[data-value="${name}"]`).textContent = text; };
  const path = (name, points) => box.querySelector(`[data-curve=${name}]`).setAttribute("d", "M" + points.join("L"));
  const exact = (a, t) => a === 0 ? t : Math.expm1(a * t) / a;
  const draw = () => {
    const delta = get("delta"), a = get("a"), z = delta * a;
    const rules = {
      forward_euler: [1 + z, delta],
      backward_euler: [1 / (1 - z), delta / (1 - z)],
      bilinear: [(1 + z / 2) / (1 - z / 2), delta / (1 - z / 2)],
      zero_order_hold: [Math.exp(z), exact(a, delta)],
    };
    const at = (t, h) => `${(left + (right - left) * t / end).toFixed(1)} ` +
      (bottom - (bottom - top) * (h / exact(a, end) - low) / (high - low)).toFixed(1);
    path("exact", Array.from({length: 61}, (_, i) => at(i / 10, exact(a, i / 10))));
    put("delta", delta.toFixed(2));
    put("a", a.toFixed(1));
    for (const [name, [A, B]] of Object.entries(rules)) {
      const points = [at(0, 0)];
      for (let t = delta, h = B; t <= end + 1e-9; t += delta, h = A * h + B) points.push(at(t, h));
      path(name, points);
      put(`${name}.A_bar`, A.toFixed(4));
      put(`${name}.B_bar`, B.toFixed(4));
      put(`${name}.stable`, Math.abs(A) < 1 ? "< 1, forgets" : Math.abs(A) > 1 ? "> 1, explodes" : "= 1, keeps");
    }
    for (const input of box.querySelectorAll("input"))
      input.setAttribute("aria-valuetext", input.closest("label").textContent.split("=")[1].trim());
  };
  box.addEventListener("input", draw);
  draw();
})();
