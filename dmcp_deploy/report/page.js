"use strict";
// Pointing at a chart, or moving through it with the arrow keys, shows the values of the mark
// that is nearest. The marks are [x, [y ...], text], in percent of the plot from its lower left.
for (const chart of document.querySelectorAll(".chart")) {
  const plot = chart.querySelector(".plot");
  const svg = plot.querySelector("svg");
  const tip = chart.querySelector(".tip");
  const cursor = chart.querySelector(".cursor");
  const marks = JSON.parse(chart.querySelector("script").textContent);
  const isScatter = chart.querySelector(".point") !== null;
  let spots = [];
  let current = -1;

  function show(index) {
    if (index === current || !marks[index]) return;
    hide();
    current = index;
    const [x, ys, text] = marks[index];
    cursor.setAttribute("x1", `${x}%`);
    cursor.setAttribute("x2", `${x}%`);
    cursor.style.visibility = isScatter ? "hidden" : "visible";
    spots = ys.map((y) => {
      const spot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
      const place = { class: "spot", cx: `${x}%`, cy: `${100 - y}%`, r: isScatter ? 9 : 4 };
      for (const [name, value] of Object.entries(place)) spot.setAttribute(name, value);
      svg.append(spot);
      return spot;
    });
    tip.textContent = text;
    tip.style.visibility = "visible";
    place(x, Math.max(...ys));
  }

  // Beside the mark, on the side with more room, within the window; of a line, where it is not.
  function place(x, y) {
    const box = plot.getBoundingClientRect();
    const at = (x / 100) * box.width;
    const wanted = x > 50 ? at - tip.offsetWidth - 14 : at + 14;
    const rightmost = document.documentElement.clientWidth - box.left - tip.offsetWidth - 4;
    tip.style.left = `${Math.max(4 - box.left, Math.min(wanted, rightmost))}px`;
    const lowest = box.height - tip.offsetHeight;
    const beside = ((100 - y) / 100) * box.height - tip.offsetHeight / 2;
    const top = isScatter ? beside : y > 50 ? lowest : 0;
    tip.style.top = `${Math.max(0, Math.min(top, lowest))}px`;
  }

  function hide() {
    current = -1;
    for (const spot of spots) spot.remove();
    spots = [];
    tip.style.visibility = cursor.style.visibility = "hidden";
  }

  function nearest(event) {
    const box = plot.getBoundingClientRect();
    const distance = ([x, ys]) => {
      const across = (x / 100) * box.width - (event.clientX - box.left);
      if (!isScatter) return Math.abs(across);
      return Math.hypot(across, (1 - ys[0] / 100) * box.height - (event.clientY - box.top));
    };
    return marks.reduce((best, mark, i) => (distance(mark) < distance(marks[best]) ? i : best), 0);
  }

  plot.addEventListener("pointermove", (event) => show(nearest(event)));
  plot.addEventListener("pointerdown", (event) => show(nearest(event)));
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", (event) => {
    const last = marks.length - 1;
    const to = {
      ArrowRight: Math.min(current + 1, last),
      ArrowLeft: Math.max(current - 1, 0),
      Home: 0,
      End: last,
    }[event.key];
    if (event.key === "Escape") hide();
    if (to === undefined) return;
    event.preventDefault();
    show(to);
    chart.querySelector(".say").textContent = tip.textContent;
  });
}
