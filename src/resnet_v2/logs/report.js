"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const state = { metric: data.metric, hidden: [], parts: ["train", "validation"], zoom: null };
const METRICS = { top1: "top-1", top5: "top-5" };
const HEIGHTS = { wide: 350, full: 230, half: 230, third: 210 };
const SVG = "http://www.w3.org/2000/svg";

// What was chosen outlives a reload, in the page's entry of the browser's history: storage may lose it when a file is
// reloaded by a new process.
Object.assign(state, history.state ?? {});

// Each chart: its keys in a run's series for training and validation. `single`: one line per run, whatever the part;
// `steps`: drawn as a staircase, on a logarithmic axis where the values span much.
const CHARTS = [
  { title: "Error", unit: "%", digits: 2, keys: () => ({ train: "train_" + state.metric, validation: state.metric }) },
  { title: "Loss", unit: "nats", digits: 4, keys: () => ({ train: "train_loss", validation: "loss" }) },
  { title: "Learning rate", unit: "", digits: 6, single: true, steps: true, keys: () => ({ train: "learning_rate" }) },
  { title: "Throughput", unit: "images/s", digits: 1, single: true, keys: () => ({ train: "samples_per_second" }) },
];

const runs = data.runs.map((run, index) => ({ ...run, colour: `var(--c${index % 8})` }));
const shown = () => runs.filter((run) => !state.hidden.includes(run.name));
const hasData = (chart) => runs.some((run) => Object.values(chart.keys()).some((key) => run.series[key]));
const has = (key) => runs.some((run) => run.series[key]);

function element(name, attributes = {}, text = null) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}

function shape(parent, name, attributes, text = null) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return parent.appendChild(made);
}

const swatch = (colour) => element("span", { class: "swatch", style: `background:${colour}` });
const number = (value, digits) => String(Number(value.toFixed(digits)).toLocaleString("en", { maximumFractionDigits: digits }));

// The lines of a chart that are to be seen: one per visible run and part, with only the epochs of the zoom.
function linesOf(chart) {
  const keys = Object.entries(chart.keys()).filter(([part]) => chart.single || state.parts.includes(part));
  return shown().flatMap((run) => keys.filter(([, key]) => run.series[key]).map(([part, key]) => ({
    run, part: chart.single ? "validation" : part, label: chart.single ? "" : part === "train" ? "training" : part,
    points: run.series[key].filter(([epoch]) => !state.zoom || (epoch >= state.zoom[0] && epoch <= state.zoom[1])),
  }))).filter((line) => line.points.length);
}

// About `count` round numbers from low to high.
function ticks(low, high, count, smallest = 0) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = Math.max(smallest, [1, 2, 5, 10].map((times) => times * power).find((value) => value >= raw * 0.999));
  const found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-9; value += step) found.push(value);
  return found;
}

function verticalScale(chart, values, top, bottom) {
  let low = Math.min(...values), high = Math.max(...values);
  const logarithmic = chart.steps && low > 0 && high / low > 20;
  if (logarithmic) {
    const [from, to] = [Math.floor(Math.log10(low) + 1e-9), Math.ceil(Math.log10(high) - 1e-9)];
    const marks = Array.from({ length: to - from + 1 }, (_, index) => 10 ** (from + index));
    return { marks, y: (value) => bottom - ((Math.log10(value) - from) / (to - from)) * (bottom - top) };
  }
  if (!state.zoom || chart.single) low = Math.min(0, low);
  const room = (high - low || Math.abs(high) || 1) * 0.05;
  [low, high] = [low < 0 || state.zoom && !chart.single ? low - room : low, high + room];
  return { marks: ticks(low, high, 5), y: (value) => bottom - ((value - low) / (high - low)) * (bottom - top) };
}

function epochRange() {
  const epochs = runs.flatMap((run) => Object.values(run.series).flatMap((points) => points.map(([epoch]) => epoch)));
  return state.zoom || [Math.min(...epochs), Math.max(...epochs)];
}

const views = [];

function draw(view) {
  const { chart, svg } = view;
  svg.replaceChildren();
  const width = svg.clientWidth, height = HEIGHTS[view.size];
  svg.setAttribute("height", height);
  const [left, right, top, bottom] = [52, width - 10, 12, height - 28];
  const lines = linesOf(chart), [first, last] = epochRange();
  const span = last - first || 1;
  view.x = (epoch) => left + ((epoch - first) / span) * (right - left);
  view.epoch = (x) => first + Math.min(1, Math.max(0, (x - left) / (right - left))) * span;
  Object.assign(view, { lines, top, bottom });
  for (const mark of ticks(first, last, Math.max(3, width / 110), 1)) {
    shape(svg, "text", { x: view.x(mark), y: bottom + 18, "text-anchor": "middle" }, number(mark, 0));
  }
  shape(svg, "line", { x1: left, x2: right, y1: bottom, y2: bottom, class: "axis" });
  if (!lines.length) {
    shape(svg, "text", { x: (left + right) / 2, y: height / 2, "text-anchor": "middle" }, "nothing to show");
    return;
  }
  const { marks, y } = verticalScale(chart, lines.flatMap((line) => line.points.map((point) => point[1])), top, bottom);
  view.y = y;
  for (const mark of marks) {
    shape(svg, "line", { x1: left, x2: right, y1: y(mark), y2: y(mark), class: "grid" });
    shape(svg, "text", { x: left - 8, y: y(mark) + 4, "text-anchor": "end" }, mark && Math.abs(mark) < 0.001 ? mark.toExponential(0) : number(mark, 6));
  }
  for (const line of lines) {
    const path = line.points.map(([epoch, value], index) => {
      const [across, down] = [view.x(epoch).toFixed(1), y(value).toFixed(1)];
      if (!index) return `M${across} ${down}`;
      return chart.steps ? `V${down}H${across}` : `L${across} ${down}`;
    });
    shape(svg, "path", { d: path.join(""), class: `curve ${line.part}`, style: `stroke:${line.run.colour}` });
    if (line.points.length === 1) {
      shape(svg, "circle", { cx: view.x(line.points[0][0]), cy: y(line.points[0][1]), r: 3, style: `fill:${line.run.colour}` });
    }
  }
  view.overlay = shape(svg, "g", { "pointer-events": "none" });
}

let pointed = null;

// The crosshair at an epoch in every chart, and the values of the chart under the pointer.
function point(chosen, epoch, event) {
  pointed = chosen;
  for (const view of views) {
    if (!view.overlay) continue;
    view.overlay.replaceChildren();
    shape(view.overlay, "line", { x1: view.x(epoch), x2: view.x(epoch), y1: view.top, y2: view.bottom, class: "cursor" });
    for (const line of view.lines) {
      const found = line.points.find((one) => one[0] === epoch);
      if (found) shape(view.overlay, "circle", { cx: view.x(epoch), cy: view.y(found[1]), r: 3.5, style: `fill:${line.run.colour}` });
    }
  }
  const table = element("table");
  for (const line of pointed.lines) {
    const found = line.points.find((one) => one[0] === epoch);
    if (!found) continue;
    const row = table.appendChild(element("tr"));
    row.append(element("td"), element("td", {}, `${number(found[1], pointed.chart.digits)} ${pointed.chart.unit}`));
    row.firstChild.append(swatch(line.run.colour), `${line.run.name} ${line.label}`);
  }
  const tooltip = document.getElementById("tooltip");
  tooltip.replaceChildren(element("strong", {}, `Epoch ${epoch}`), table);
  tooltip.hidden = !table.children.length;
  const leftOf = event.clientX + tooltip.offsetWidth + 28 > innerWidth;
  tooltip.style.left = `${event.clientX + (leftOf ? -tooltip.offsetWidth - 14 : 14)}px`;
  tooltip.style.top = `${Math.min(event.clientY + 14, innerHeight - tooltip.offsetHeight - 8)}px`;
}

function leave() {
  for (const view of views) view.overlay?.replaceChildren();
  document.getElementById("tooltip").hidden = true;
}

// Pointing reads values; dragging over epochs zooms every chart.
function listen(view) {
  const { svg } = view;
  let from = null, brush = null;
  const place = (event) => event.clientX - svg.getBoundingClientRect().left;
  svg.addEventListener("pointermove", (event) => {
    if (!view.lines.length) return;
    const epochs = [...new Set(view.lines.flatMap((line) => line.points.map((one) => one[0])))];
    const wanted = view.epoch(place(event));
    point(view, epochs.reduce((best, one) => (Math.abs(one - wanted) < Math.abs(best - wanted) ? one : best)), event);
    if (from !== null && Math.abs(place(event) - from) > 4) {
      brush ??= shape(svg, "rect", { class: "brush", y: view.top, height: view.bottom - view.top });
      brush.setAttribute("x", Math.min(from, place(event)));
      brush.setAttribute("width", Math.abs(place(event) - from));
    }
  });
  svg.addEventListener("pointerdown", (event) => { if (event.pointerType === "mouse") from = place(event); });
  svg.addEventListener("pointerup", (event) => {
    const ends = [from, place(event)].sort((a, b) => a - b).map((x) => Math.round(view.epoch(x)));
    if (brush && ends[1] > ends[0]) state.zoom = ends;
    const redraw = brush !== null;
    from = brush = null;
    if (redraw) update();
  });
  svg.addEventListener("pointerleave", () => {
    brush?.remove();
    from = brush = null;
    if (pointed === view) leave();
  });
  svg.addEventListener("dblclick", () => { state.zoom = null; update(); });
}

function toggle(list, value) {
  const at = list.indexOf(value);
  if (at < 0) list.push(value); else list.splice(at, 1);
  update();
}

function button(parent, label, pressed, act, picture = null) {
  const made = parent.appendChild(element("button", { type: "button", "aria-pressed": pressed }));
  if (picture) made.append(picture);
  made.append(label);
  made.addEventListener("click", act);
}

function stroke(part) {
  const svg = document.createElementNS(SVG, "svg");
  shape(svg, "line", { x1: 0, x2: 22, y1: 4, y2: 4, class: `curve ${part}`, style: "stroke:currentColor" });
  return svg;
}

function controls() {
  const place = document.getElementById("controls");
  place.replaceChildren();
  const group = (kind, label) => place.appendChild(element("div", { class: `group ${kind}`, role: "group", "aria-label": label }));
  const names = group("", "runs");
  for (const run of runs) button(names, run.name, !state.hidden.includes(run.name), () => toggle(state.hidden, run.name), swatch(run.colour));
  const parts = group("", "parts");
  for (const [part, label] of [["validation", "validation"], ["train", "training"]]) {
    button(parts, label, state.parts.includes(part), () => toggle(state.parts, part), stroke(part));
  }
  if (!(has("top1") && has("top5"))) return;
  const metrics = group("choice", "error");
  for (const [metric, label] of Object.entries(METRICS)) {
    button(metrics, label, state.metric === metric, () => { state.metric = metric; update(); });
  }
}

function bestTable() {
  const columns = [
    ["top-1 error", (row) => `${row.top1_error.toFixed(2)} %`],
    ["top-5 error", (row) => (row.top5_error === null ? "–" : `${row.top5_error.toFixed(2)} %`)],
    ["epochs", (row) => row.epochs], ["best epoch", (row) => row.best_epoch], ["checkpoint", (row) => row.checkpoint],
  ];
  const table = document.getElementById("best");
  const head = table.appendChild(element("tr"));
  head.append(element("th", {}, "run"), ...columns.map(([name]) => element("th", {}, name)));
  for (const run of runs) {
    const row = table.appendChild(element("tr"));
    row.append(element("th"), ...columns.map(([, cell]) => element("td", {}, String(cell(run.summary)))));
    row.firstChild.append(swatch(run.colour), run.name);
  }
}

function build() {
  document.getElementById("about").textContent = data.about;
  if (!has(state.metric)) state.metric = "top1";
  const charts = CHARTS.filter(hasData);
  charts.forEach((chart, index) => {
    const size = index === 0 ? "wide" : ["full", "half", "third"][charts.length - 2];
    const card = document.getElementById("charts").appendChild(element("section", { class: `card ${size}` }));
    const title = card.appendChild(element("h2"));
    const svg = shape(card, "svg", { role: "img", "aria-label": `${chart.title} over epochs` });
    const view = { chart, svg, title, size, lines: [] };
    views.push(view);
    listen(view);
  });
  bestTable();
}

function update() {
  history.replaceState({ ...state }, "");
  controls();
  leave();
  for (const view of views) {
    const error = view.chart.title === "Error";
    view.title.textContent = error ? `${METRICS[state.metric].replace("t", "T")} error` : view.chart.title;
    view.title.append(element("span", {}, view.chart.unit && ` (${view.chart.unit})`));
    view.overlay = null;
    draw(view);
  }
}

build();
update();
addEventListener("resize", update);
