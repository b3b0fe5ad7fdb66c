"use strict";
// Tells what the curve or the dot nearest to the pointer is: they are too thin for a finger. It reads what the page
// holds, and writes nothing but that text and a class. The arrow keys go from one to the next.
for (const box of document.querySelectorAll(".near")) {
  const svg = box.querySelector("svg"), told = box.querySelector(".told"), reach = 24;
  const parts = [...svg.querySelectorAll(".line, .dot")].map((part) => {
    const title = part.querySelector("title"), path = part.querySelector("path"), dot = part.querySelector("circle");
    const text = title.textContent;
    title.remove(); // the browser would show it, too
    const line = part.classList.contains("line");
    const frame = line ? null : (dot ?? path).getBBox();
    const points = line
      ? path.getAttribute("d").slice(1).split("L").map((pair) => pair.split(" ").map(Number))
      : [[frame.x + frame.width / 2, frame.y + frame.height / 2]];
    return { part, text, points };
  });
  let chosen = null;
  const choose = (found) => {
    chosen?.part.classList.remove("chosen");
    chosen = found;
    chosen?.part.classList.add("chosen");
    svg.classList.toggle("choosing", chosen !== null);
    told.textContent = chosen?.text ?? told.dataset.hint;
  };
  const toSegment = (x, y, [ax, ay], [bx, by]) => {
    const [dx, dy] = [bx - ax, by - ay];
    const along = Math.max(0, Math.min(1, ((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy || 1)));
    return Math.hypot(x - ax - along * dx, y - ay - along * dy);
  };
  const distance = (x, y, points) => Math.min(...points.map((point, at) => toSegment(x, y, points[at - 1] ?? point, point)));
  const show = (event) => {
    const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const away = parts.map((part) => distance(x, y, part.points)), least = Math.min(...away, reach);
    const here = least < reach ? parts.filter((_, at) => away[at] <= least + 0.5) : [];
    const before = here.indexOf(chosen); // the last of them lies over the others; a click goes to the one below
    choose(here.at(before < 0 ? -1 : event.type === "click" ? before - 1 : before) ?? null);
    if (here.length > 1) told.textContent += ` (${here.length - 1} more here: click or tap again)`;
  };
  svg.addEventListener("pointermove", show);
  svg.addEventListener("click", show);
  svg.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") choose(null); });
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || !parts.length) return;
    event.preventDefault();
    choose(parts[(parts.indexOf(chosen) + step + parts.length) % parts.length]);
  });
  svg.setAttribute("tabindex", "0");
  choose(null);
}
