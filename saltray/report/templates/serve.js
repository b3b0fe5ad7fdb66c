"use strict";
const AT_ONCE = 4, RETRIES = 30;
const at = id => document.getElementById(id);
const results = at("results");
let waiting = [], running = 0;

at("here").textContent = new URL(".", location.href).href;

async function about() {
  try {
    const answer = await fetch("ready"), told = await answer.json();
    if (!answer.ok) throw new Error(told.error);
    at("about").textContent = `${told.ensemble}, ${told.members} model${told.members > 1 ? "s" : ""}`;
    at("size").textContent = `grey PNG, TIFF or JPEG of ${told.height} × ${told.width} pixels`;
  } catch (error) {
    at("about").textContent = `not ready: ${error.message}`;
    setTimeout(about, 2000);
  }
}

async function ask(file) {
  const headers = {Accept: "application/json"}, token = at("token");
  if (token && token.value) headers.Authorization = `Bearer ${token.value.trim()}`;
  for (let left = RETRIES; ; left--) {
    const answer = await fetch("predict", {method: "POST", headers, body: file});
    if (answer.ok) return answer.json();
    if (answer.status === 503 && left) {  // busy
      const seconds = Number(answer.headers.get("Retry-After")) || 1;
      await new Promise(resolve => setTimeout(resolve, 1000 * seconds * (0.5 + Math.random())));
      continue;
    }
    const text = await answer.text();
    let reason = text;
    try { reason = JSON.parse(text).error || text; } catch (_) { /* not of the service itself */ }
    throw new Error(reason || `HTTP ${answer.status}`);
  }
}

function paint(canvas, told) {  // runs of pixels from 1, top to bottom and then left to right
  canvas.width = told.width; canvas.height = told.height;
  const context = canvas.getContext("2d"), image = context.createImageData(told.width, told.height);
  const runs = told.rle ? told.rle.split(" ").map(Number) : [];
  for (let i = 0; i < runs.length; i += 2)
    for (let p = runs[i] - 1; p < runs[i] - 1 + runs[i + 1]; p++)
      image.data.set([255, 176, 0, 255], 4 * ((p % told.height) * told.width + Math.floor(p / told.height)));
  context.putImageData(image, 0, 0);
}

function element(kind, name, parent, text) {
  const made = document.createElement(kind);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

async function show({file, figure, picture, caption, wait}) {
  const tile = element("img", "tile"), mask = element("canvas", "mask");
  tile.alt = `tile ${file.name}`;
  try {
    const told = await ask(file);
    const url = URL.createObjectURL(file);
    tile.onload = () => URL.revokeObjectURL(url);
    tile.onerror = () => { tile.classList.add("missing"); tile.onload(); };  // no browser shows a TIFF
    tile.src = url;
    paint(mask, told);
    mask.setAttribute("role", "img");
    mask.setAttribute("aria-label", `mask of ${file.name}`);
    wait.remove();
    picture.append(tile, mask);
    const share = 100 * told.salt_pixels / (told.height * told.width);
    caption.textContent = told.salt_pixels ? `${share.toFixed(1)} % salt` : "no salt";
    element("span", "", caption.parentNode, `probability ${told.mean_probability.toFixed(3)}`).title = "mean over the tile";
    figure.row = [file.name.replace(/\.[^.]*$/, ""), told.rle];
    figure.dataset.state = "done";
  } catch (error) {
    figure.classList.add("failed");
    figure.dataset.state = "failed";
    wait.textContent = error.message;
    caption.textContent = "no mask";
  }
}

function next() {
  while (running < AT_ONCE && waiting.length) {
    running++;
    show(waiting.shift()).finally(() => { running--; next(); });
  }
  const left = waiting.length + running, count = state => results.querySelectorAll(`[data-state=${state}]`).length;
  const failed = count("failed");
  at("count").textContent = left ? `${left} to go` : `${count("done")} done${failed ? `, ${failed} failed` : ""}`;
}

function add(files) {
  for (const file of files) {
    const figure = element("figure", "", results), picture = element("div", "picture", figure);
    const wait = element("p", "", picture, "…"), text = element("figcaption", "", figure);
    element("b", "", text, file.name).title = file.name;
    waiting.push({file, figure, picture, wait, caption: element("span", "", text, "waiting")});
    figure.dataset.state = "waiting";
  }
  at("tools").hidden = false;
  next();
}

at("files").onchange = event => { add([...event.target.files]); event.target.value = ""; };
for (const kind of ["dragover", "dragleave", "drop"])
  document.addEventListener(kind, event => { event.preventDefault(); at("drop").classList.toggle("over", kind === "dragover"); });
document.addEventListener("drop", event => add([...event.dataTransfer.files]));
for (const view of document.querySelectorAll("[name=view]")) view.onchange = () => { results.dataset.view = view.value; };
at("clear").onclick = () => { waiting = []; results.replaceChildren(); at("tools").hidden = true; };
at("csv").onclick = () => {
  const rows = [...results.children].map(figure => figure.row).filter(Boolean);  // as they were dropped
  const quoted = rows.map(row => row.map(value => /[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value).join(","));
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([["id,rle_mask", ...quoted, ""].join("\n")], {type: "text/csv"}));
  link.download = "masks.csv";
  link.click();
  URL.revokeObjectURL(link.href);
};
about();
