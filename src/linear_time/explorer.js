/* Of every Explorer: the sliders choose a frame, and the frame is drawn. No formula stands here:
   Python computed all frames. y is in tenths of a unit; null is a gap. */
(() => {
  const box = document.currentScript.closest("[data-interactive]");
  const data = JSON.parse(box.querySelector("script[type='application/json']").textContent);
  const sliders = [...box.querySelectorAll("input")];
  const put = (name, text) => box.querySelectorAll(`[data-value="${name}"]`)
    .forEach((place) => { place.textContent = text; });
  const tenth = (x) => (Math.floor(10 * x + 0.5) / 10).toFixed(1);
  const line = ({x0, dx}, ys) => ys.map((y, i) => y === null ? ""
    : `${(ys[i - 1] ?? null) === null ? "M" : "L"}${tenth(x0 + dx * i)} ${(y / 10).toFixed(1)}`).join("");
  const bars = ({x0, dx, bar, foot}, ys) => ys.map((y, i) => y === null ? ""
    : `M${tenth(x0 + dx * i - bar / 2)} ${foot}V${(y / 10).toFixed(1)}h${bar}V${foot}z`).join("");
  const draw = () => {
    let at = 0;
    sliders.forEach((slider, k) => {
      const shown = data.values[k];
      at = at * shown.length + Number(slider.value);
      put(slider.dataset.input, shown[slider.value]);
      slider.setAttribute("aria-valuetext", `${shown[slider.value]} ${data.units[k]}`.trim());
    });
    const {curves, numbers, cursor} = data.frames[at];
    for (const [name, text] of Object.entries(numbers)) put(name, text);
    for (const [name, ys] of Object.entries(curves)) {
      const map = data.maps[name];
      box.querySelector(`[data-curve="${name}"]`).setAttribute("d", (map.bar ? bars : line)(map, ys));
    }
    box.querySelectorAll("[data-cursor]").forEach((mark, k) => mark.setAttribute("transform", `translate(${cursor[k]})`));
  };
  box.addEventListener("input", draw);
  draw();
})();
