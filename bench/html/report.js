"use strict";
// Draws what the page holds: charts, the table of every record, a record's details.  What stands in a record is set as
// text, never as HTML.

const { records, places, charts } = JSON.parse(document.getElementById("data").textContent);
for (const { place, record } of records) Object.assign(record.provenance, places[place]);
const byId = new Map(records.map((record) => [record.id, record]));
const find = (selector, root = document) => [...root.querySelectorAll(selector)];

function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

// Numbers: three significant digits; what is no number in JSON is its name.
function figures(value) {
  if (value === undefined || value === null) return "";
  if (typeof value === "string") return value === "nan" ? "NaN" : value;
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e7 || size < 1e-4) return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
  return String(Number(value.toPrecision(3)));
}
const order = (value) => (typeof value === "number" && value ? value.toExponential(0).replace("e+", "e") : figures(value));
const times = (value) => (value === undefined ? "" : `${figures(value)}×`);
const percent = (value) => (value === undefined ? "" : `${figures(100 * value)}%`);

// ---- What is shown: the choices at the top hold for charts, tables and records alike.

const chosen = { machine: "", operation: "", dtype: "", layout: "" };
const views = new Map(); // figure -> its chart

const kindShown = (kind) =>
  ["operation", "dtype", "layout"].every((name, part) => !chosen[name] || kind.split(" ")[part] === chosen[name]);

function choose() {
  for (const section of find("section.machine"))
    section.hidden = Boolean(chosen.machine) && section.dataset.machine !== chosen.machine;
  for (const block of find("[data-kinds]")) {
    const kinds = JSON.parse(block.dataset.kinds).filter(kindShown);
    block.hidden = !kinds.length;
    if (kinds.length) views.get(block)?.signal("kinds", kinds).runAsync(); // a chart of nothing has no axes
  }
  dispatchEvent(new Event("resize")); // charts that were hidden have no width yet
  fill();
}

for (const select of find("[data-filter]"))
  select.addEventListener("change", () => {
    chosen[select.dataset.filter] = select.value;
    choose();
  });

// ---- Charts

async function draw(figure) {
  const [section, number] = figure.dataset.chart.split(".");
  const { view } = await vegaEmbed(figure.querySelector(".chart"), charts[section][number], {
    actions: false,
    ast: true, // the page's policy forbids scripts made from text
    renderer: "svg",
    logLevel: 1, // errors alone: it warns where nothing was measured of what is chosen of a sweep
  });
  views.set(figure, view);
  view.addEventListener("click", (_, item) => item?.datum?.id && open(item.datum.id));
  for (const select of find("[data-choice]", figure))
    select.addEventListener("change", () => {
      for (const other of find(`[data-choice="${select.dataset.choice}"]`, figure.parentElement)) {
        other.value = select.value;
        other.dispatchEvent(new Event("chosen"));
      }
    });
  for (const select of find("[data-choice]", figure))
    select.addEventListener("chosen", () => view.signal(`at_${select.dataset.choice}`, select.value).runAsync());
}

// Paper has two columns of them, each of half its width.
addEventListener("beforeprint", () => views.forEach((view) => view.width(340).run()));
addEventListener("afterprint", () => dispatchEvent(new Event("resize")));

let lit = null;
for (const button of find("[data-lit]"))
  button.addEventListener("click", () => {
    lit = lit === button.dataset.lit ? null : button.dataset.lit;
    for (const other of find("[data-lit]")) other.setAttribute("aria-pressed", String(other.dataset.lit === lit));
    for (const view of views.values()) view.signal("lit", lit).runAsync();
  });

// ---- The table of every record

const machines = new Set(records.map((record) => record.machine));
const files = new Set(records.map((record) => record.file));
const shortest = (file) => {
  const name = file.split("/").pop();
  return [...files].filter((other) => other.split("/").pop() === name).length > 1 ? file : name;
};
const columns = [
  { title: "problem", text: true, value: (r) => r.label },
  { title: "strategy", text: true, value: (r) => r.record.strategy },
  { title: "verdict", text: true, value: (r) => r.record.verdict },
  { title: "time, µs", value: (r) => r.time_us },
  { title: "quartiles, µs", value: (r) => r.q1_us, show: (r) => (r.time_us === undefined ? "" : `${figures(r.q1_us)} – ${figures(r.q3_us)}`) },
  { title: "n", value: (r) => r.n || undefined, show: (r) => String(r.n || "") },
  { title: "noise", value: (r) => r.noise, show: (r) => percent(r.noise) },
  { title: "of best", value: (r) => r.of_best, show: (r) => times(r.of_best) },
  { title: "vs torch", value: (r) => r.vs_vendor, show: (r) => times(r.vs_vendor) },
  { title: "% of floor", value: (r) => r.of_floor, show: (r) => figures(r.of_floor && 100 * r.of_floor) },
  { title: "error", value: (r) => r.record.accuracy?.error, show: (r) => order(r.record.accuracy?.error) },
  { title: "operator", text: true, value: (r) => [r.record.operation, r.record.dtype, ...(r.record.layout === "contiguous" ? [] : [r.record.layout])].join(" ") },
  { title: "machine", text: true, value: (r) => r.machine },
  { title: "message", text: true, value: (r) => r.record.message },
  { title: "record", text: true, value: (r) => r.id, show: (r) => `${shortest(r.file)}:${r.line}` },
].filter(
  (column) =>
    (column.title !== "machine" || machines.size > 1) &&
    (column.title === "record" || records.some((r) => ![undefined, ""].includes(column.value(r)))),
);
const sorted = { column: null, descending: false };

const [head, body] = [document.querySelector("#table thead"), document.querySelector("#table tbody")];
head.append(
  element("tr", {}, ...columns.map((column) => {
    const button = element("button", { type: "button" }, column.title);
    const cell = element("th", { scope: "col", className: column.text ? "text" : "", ariaSort: "none" }, button);
    button.addEventListener("click", () => {
      sorted.descending = sorted.column === column && !sorted.descending;
      sorted.column = column;
      for (const other of head.querySelectorAll("th")) other.ariaSort = "none";
      cell.ariaSort = sorted.descending ? "descending" : "ascending";
      fill();
    });
    return cell;
  })),
);

function rowOf(r) {
  const cells = columns.map((column, number) => {
    const text = column.show ? column.show(r) : column.text ? column.value(r) : figures(column.value(r));
    const classes = [column.text ? "text" : "", column.title === "message" ? "message" : ""];
    if (column.title === "verdict") classes.push(`verdict-${r.record.verdict}`);
    if (number) return element("td", { className: classes.join(" ").trim() }, text);
    return element("th", { scope: "row" }, element("a", { href: `#record-${r.id}` }, text || r.record.problem));
  });
  const row = element("tr", { className: r.superseded ? "superseded" : "" }, ...cells);
  row.addEventListener("click", (event) => event.target.closest("a") || getSelection().toString() || open(r.id));
  return row;
}
const rows = new Map();

// Numbers before names such as "nan", and what is missing last, whichever way.
function compare(a, b) {
  const rank = (value) => (value === undefined || value === null || value === "" ? 2 : typeof value === "string" && !sorted.column.text ? 1 : 0);
  const [x, y] = [sorted.column.value(a), sorted.column.value(b)];
  if (rank(x) !== rank(y)) return rank(x) - rank(y);
  const ascending = typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y;
  return sorted.descending ? -ascending : ascending;
}

function fill() {
  const wanted = (id) => document.getElementById(id).value;
  const words = wanted("text").toLowerCase().split(/\s+/).filter(Boolean);
  const shown = records.filter((r) => {
    const { record } = r;
    const text = [record.problem, r.label, record.strategy, record.message, r.file].join("\n").toLowerCase();
    return (
      (!chosen.machine || r.machine === chosen.machine) &&
      ["operation", "dtype", "layout"].every((name) => !chosen[name] || record[name] === chosen[name]) &&
      (!wanted("strategy") || record.strategy === wanted("strategy")) &&
      (!wanted("verdict") || record.verdict === wanted("verdict")) &&
      words.every((word) => text.includes(word))
    );
  });
  if (sorted.column) shown.sort(compare);
  body.replaceChildren(...shown.map((r) => rows.get(r.id) ?? rows.set(r.id, rowOf(r)).get(r.id)));
  document.getElementById("shown").textContent = `${shown.length} of ${records.length} records`;
}
for (const id of ["text", "strategy", "verdict"]) document.getElementById(id).addEventListener("input", fill);

// ---- A record

const dialog = document.getElementById("record");

const facts = (pairs) =>
  element("dl", { className: "facts" }, ...pairs
    .filter(([, value]) => value !== "" && value !== undefined && value !== null)
    .map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, String(value)))));

// {"a": {"b": 1}} as [["a b", "1"]]
function flat(value, name = "") {
  if (Array.isArray(value)) return [[name, value.map(figures).join(", ")]];
  if (value === null || typeof value !== "object") return [[name.replaceAll("_", " "), String(value ?? "–")]];
  return Object.entries(value).flatMap(([key, item]) => flat(item, `${name} ${key}`.trim()));
}

// Sets of samples on one axis, a dot each, the median as a line.
function samples(timing) {
  const second = timing.second || timing.cold_us.length;
  const sets = [
    [timing.second ? "cold, first run" : "cold", timing.cold_us.slice(0, second)],
    ["cold, second run", timing.cold_us.slice(second)],
    ["warm", timing.warm_us],
    ...Object.entries(timing.stages_us),
    ["NVBench", timing.nvbench_us],
  ].filter(([, values]) => values.length);
  const all = sets.flatMap(([, values]) => values);
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const at = (value) => `${(100 * (value - low)) / (high - low || 1)}%`;
  const mark = (tag, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };
  return element("div", { className: "samples" }, ...sets.flatMap(([name, values]) => {
    const strip = mark("svg", { role: "img", "aria-label": `${name}: ${values.length} samples` });
    strip.append(mark("line", { x1: "0", x2: "100%", y1: 10, y2: 10, stroke: "var(--rule)" }));
    strip.append(...values.map((value) => mark("circle", { cx: at(value), cy: 10, r: 3.5, fill: "var(--accent)", "fill-opacity": 0.55 })));
    const ascending = [...values].sort((a, b) => a - b);
    const median = (ascending[(values.length - 1) >> 1] + ascending[values.length >> 1]) / 2;
    strip.append(mark("line", { x1: at(median), x2: at(median), y1: 2, y2: 18, stroke: "var(--ink)", "stroke-width": 2 }));
    return [
      element("span", {}, name),
      strip,
      element("span", {}, `${figures(median)} µs, n ${values.length}`),
      element("p", { className: "raw" }, values.join(", ")),
    ];
  }));
}

function copyButton(text) {
  const button = element("button", { type: "button" }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = element("textarea", { value: text, readOnly: true });
      dialog.append(area);
      area.select();
      document.execCommand("copy"); // where there is no clipboard, as in a page from a file
      area.remove();
    }
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  return button;
}

function open(id) {
  const r = byId.get(id);
  if (!r) return;
  const { record } = r;
  const { accuracy, timing, work, provenance, spent_s: spent } = record;
  const close = element("button", { type: "button", autofocus: true }, "Close");
  close.addEventListener("click", () => dialog.close());
  const rate = (flops) => (timing && flops ? `${figures(flops / r.time_us / 1e3)} GFLOP/s` : "");
  const parts = [
    element("header", {},
      element("h2", { id: "record-title" }, `${record.strategy}, ${r.label}`), close),
    element("p", {}, element("span", { className: `verdict-${record.verdict}` }, record.verdict),
      element("span", { className: "muted" }, `  ${r.file}:${r.line}${r.superseded ? ", superseded by a later record" : ""}`)),
    record.message ? element("p", { className: "message" }, record.message) : null,
    element("h3", {}, "Repeat it"),
    element("div", { className: "command" }, element("code", {}, r.command), copyButton(r.command)),
    provenance.commit ? element("p", { className: "muted" }, `at commit ${provenance.commit}${provenance.dirty ? ", which had changes that are not in it" : ""}`) : null,
    element("h3", {}, "Figures"),
    facts([
      ["median", timing ? `${figures(r.time_us)} µs` : ""],
      ["quartiles", timing ? `${figures(r.q1_us)} to ${figures(r.q3_us)} µs` : ""],
      ["samples", timing ? r.n : ""],
      ["warm", r.warm_time_us === undefined ? "" : `${figures(r.warm_time_us)} µs`],
      ["noise", percent(r.noise)],
      ["of the problem's best", times(r.of_best)],
      ["speed vs torch", times(r.vs_vendor)],
      ["floor", `${figures(work.floor_us)} µs${timing ? `, ${percent(r.of_floor)} of it reached` : ""}`],
      ["effective", rate(work.flops)],
      ["executed", rate(work.executed_flops)],
      ["error", order(accuracy?.error)],
      ["of its bound", figures(accuracy?.of_bound)],
      ["compared", accuracy ? `${accuracy.checked} of ${accuracy.outputs} outputs` : ""],
      ["algorithm", record.algorithm],
      ["own file", record.source],
      ["its SHA-256", record.source_sha256],
      ["machine", r.machine],
      ["utc", provenance.utc],
    ]),
    timing ? element("h3", {}, "Samples, µs") : null,
    timing ? samples(timing) : null,
    Object.keys(spent).length ? element("h3", {}, "Time spent on this record, s") : null,
    facts(Object.entries(spent).map(([name, value]) => [name, figures(value)])),
    element("h3", {}, "Provenance"),
    facts(flat(provenance)),
    element("details", {}, element("summary", {}, "The record as JSON"), element("pre", {}, JSON.stringify(record, null, 1))),
  ];
  dialog.replaceChildren(...parts.filter((part) => part !== null));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  history.replaceState(null, "", `#record-${id}`);
}

dialog.addEventListener("close", () => history.replaceState(null, "", "#records"));
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
const followHash = () => {
  const match = /^#record-(\d+)$/.exec(location.hash);
  if (match) open(Number(match[1]));
};
addEventListener("hashchange", followHash);

fill();
followHash();
Promise.all(find("[data-chart]").map(draw)).then(() => {
  document.documentElement.dataset.drawn = views.size;
});
