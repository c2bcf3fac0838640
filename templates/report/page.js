// Shows the text of the area under the pointer, or under a finger.
const tip = document.getElementById("tip");
for (const plot of document.querySelectorAll(".plot")) {
  const areas = JSON.parse(plot.dataset.areas);
  const svg = plot.querySelector("svg");
  const show = (event) => {
    const box = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale;
    const y = (event.clientY - box.top) * scale;
    const hit = areas.findLast(([left, top, width, height]) => x >= left && x < left + width && y >= top && y < top + height);
    tip.hidden = !hit;
    if (!hit) return;
    tip.textContent = hit[4];
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = Math.max(4, Math.min(event.clientX + 12, room)) + "px";
    tip.style.top = event.clientY + 16 + "px";
  };
  plot.addEventListener("pointermove", show);
  plot.addEventListener("pointerdown", show);
  plot.addEventListener("pointerleave", () => { tip.hidden = true; });
}
