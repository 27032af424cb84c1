/* How drawings respond to a mouse, a finger or the keyboard. Listeners are on the whole page, so that drawings can be replaced. */
() => {
  const fit = (svg) => svg.dataset.fit || (svg.dataset.fit = svg.getAttribute("viewBox"));
  const view = (svg) => (fit(svg), svg.getAttribute("viewBox").split(" ").map(Number));
  const show = (svg, box) => {
    const whole = fit(svg).split(" ").map(Number);
    const base = innerWidth <= 720 ? 1.7 : 1;
    svg.setAttribute("viewBox", box.join(" "));
    svg.style.setProperty("--mark", (base * box[2]) / whole[2]);
  };
  const zoom = (svg, factor, x = 0.5, y = 0.5) => {
    const [left, top, width, height] = view(svg);
    const limit = fit(svg).split(" ").map(Number)[2];
    const wide = Math.min(limit * 6, Math.max(limit / 40, width * factor));
    const ratio = wide / width;
    show(svg, [left + x * (width - wide), top + y * height * (1 - ratio), wide, height * ratio]);
  };
  const move = (svg, across, down) => {
    const [left, top, width, height] = view(svg);
    show(svg, [left + across * width, top + down * height, width, height]);
  };
  const mapOf = (target) => target.closest && target.closest("svg.map");

  document.addEventListener("click", (event) => {
    const button = event.target.closest && event.target.closest(".zoom button");
    if (!button) return;
    const svg = button.closest(".map-panel").querySelector("svg.map");
    if (button.dataset.zoom === "fit") show(svg, fit(svg).split(" ").map(Number));
    else zoom(svg, button.dataset.zoom === "in" ? 1 / 1.5 : 1.5);
  });
  document.addEventListener("wheel", (event) => {
    const svg = mapOf(event.target);
    if (!svg || !(event.ctrlKey || document.activeElement === svg)) return;
    event.preventDefault();
    const box = svg.getBoundingClientRect();
    zoom(svg, event.deltaY > 0 ? 1.2 : 1 / 1.2, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  }, { passive: false });
  let held = null;
  document.addEventListener("pointerdown", (event) => {
    const svg = mapOf(event.target);
    if (svg && event.pointerType === "mouse") { held = { svg, x: event.clientX, y: event.clientY }; svg.classList.add("moving"); }
  });
  document.addEventListener("pointermove", (event) => {
    if (!held) return;
    const box = held.svg.getBoundingClientRect();
    move(held.svg, (held.x - event.clientX) / box.width, (held.y - event.clientY) / box.height);
    held.x = event.clientX; held.y = event.clientY;
  });
  document.addEventListener("pointerup", () => { if (held) held.svg.classList.remove("moving"); held = null; });
  document.addEventListener("keydown", (event) => {
    const svg = mapOf(event.target);
    if (!svg) return;
    const ways = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, -0.15], ArrowDown: [0, 0.15] };
    if (ways[event.key]) move(svg, ...ways[event.key]);
    else if (event.key === "+" || event.key === "=") zoom(svg, 1 / 1.5);
    else if (event.key === "-") zoom(svg, 1.5);
    else if (event.key === "0") show(svg, fit(svg).split(" ").map(Number));
    else return;
    event.preventDefault();
  });

  const choose = (target) => {
    const why = target.closest && target.closest(".why");
    const part = why && target.closest("[data-region]");
    document.querySelectorAll(".why .active").forEach((element) => element.classList.remove("active"));
    document.querySelectorAll(".why.chosen").forEach((element) => element.classList.remove("chosen"));
    if (!part) return;
    if (part.dataset.region !== "0") why.classList.add("chosen");
    why.querySelectorAll(`[data-region="${part.dataset.region}"]`).forEach((element) => element.classList.add("active"));
  };
  document.addEventListener("pointerover", (event) => { // outside all regions, the one chosen by keyboard stays
    if (event.pointerType !== "mouse") return;
    choose(event.target.closest && event.target.closest(".why [data-region]") ? event.target : document.activeElement);
  });
  document.addEventListener("click", (event) => { if (event.target.closest && event.target.closest(".why")) choose(event.target); });
  document.addEventListener("focusin", (event) => { if (event.target.closest && event.target.closest(".bars")) choose(event.target); });
}
