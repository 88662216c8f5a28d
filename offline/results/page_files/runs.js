// The table of runs: one row each, sorted by a click on a heading, narrowed by the filters.

const AS_TRAINED = "as trained";
const GAP = "gap";
const form = byId("filters");
const [search, game, method, acting, data, numbers] =
  ["search", "game", "method", "acting", "data-filter", "numbers"].map(byId);
let sorting = { column: null, descending: false };
let shown = []; // the rows in sight, in order

/** A return as a score: 0 and 1 are the ends of the game's range. */
function scoreOf(run, value) {
  const [lowest, highest] = run.range;
  return value === null || value === undefined ? null : (value - lowest) / (highest - lowest);
}

const modeOf = (run) => (acting.value === AS_TRAINED ? run.trained : acting.value);

/** The number of a run in the column of a split, or of the gap; null where there is none. */
function valueOf(run, split) {
  const results = run.results[modeOf(run)] ?? {};
  const of = (name) => {
    const mean = results[name]?.[0] ?? null;
    return numbers.value === "score" ? scoreOf(run, mean) : mean;
  };
  if (split !== GAP) return of(split);
  const [train, test] = [of("train"), of("test")];
  return train === null || test === null ? null : train - test;
}

const text = (name, value) => ({ name, side: "text", value, show: value });
const figure = (name, split) => ({
  name,
  side: "number",
  value: (run) => valueOf(run, split),
  show: (run) => number(valueOf(run, split)),
});
const varied = (value) => new Set(report.runs.map(value)).size > 1;

/** What sets the data of a run apart from those of the others: all, where these only add to them. */
const dataParts = report.conditions.map((condition) => condition.split(", "));
const sharedParts = dataParts.reduce((shared, parts) => shared.filter((part) => parts.includes(part)));
const ownData = (i) =>
  dataParts.length === 1
    ? ""
    : dataParts[i].filter((part) => !sharedParts.includes(part)).join(", ") || report.conditions[i];

const columns = [
  text("Game", (run) => run.game),
  text("Method", (run) => run.method),
  ...(varied((run) => run.label) ? [text("Setting", (run) => run.label || "the only one")] : []),
  ...(varied((run) => run.data) ? [text("Data", (run) => ownData(run.data))] : []),
  { name: "Seed", side: "number", value: (run) => run.seed, show: (run) => String(run.seed) },
  ...(varied((run) => run.trained) ? [text("Acting", modeOf)] : []),
  ...report.splits.map((split) => figure(split[0].toUpperCase() + split.slice(1), split)),
  figure("Gap (train − test)", GAP),
];

const rows = report.runs.map((run) => {
  const cells = columns.map((column, i) =>
    html(i ? "td" : "th", { class: column.side, scope: i ? null : "row" }));
  const which = [run.method, run.label, ownData(run.data), `seed ${run.seed}`].filter(Boolean).join(", ");
  const link = html("a", { href: address(run), "aria-label": `${run.game}: ${which}, open the run` });
  cells[0].append(link);
  const words = [run.game, run.method, run.label, `seed ${run.seed}`, run.folder];
  const line = html("tr", {}, cells);
  return { run, cells, link, line, words: words.join(" ").toLowerCase() };
});

/** A run's neighbour in the table as it is sorted and filtered. */
function runBeside(run, step) {
  const at = shown.findIndex((row) => row.run === run);
  return at < 0 ? null : (shown[at + step]?.run ?? null);
}

const heads = columns.map((column) => {
  const button = html("button", { type: "button" }, column.name, html("span", { class: "arrow", "aria-hidden": "true" }));
  const head = html("th", { scope: "col", class: column.side }, button);
  button.addEventListener("click", () => {
    // Numbers start with the largest, which is what one looks for; words with the first.
    const again = sorting.column === column;
    sorting = { column, descending: again ? !sorting.descending : column.side === "number" };
    update();
  });
  return head;
});
const body = html("tbody");
byId("run-table").append(
  scrolling("Table of runs", html("table", { class: "sortable" }, html("thead", {}, html("tr", {}, heads)), body)));

/** Order of two rows by the sorted column; what is missing stays last either way. */
function compare(a, b) {
  const { column, descending } = sorting;
  if (!column) return 0;
  const [x, y] = [column.value(a.run), column.value(b.run)];
  if (x === null || y === null) return Number(x === null) - Number(y === null);
  const order = column.side === "number" ? x - y : x.localeCompare(y, "en", { numeric: true });
  return descending ? -order : order;
}

function isWanted({ run, words }) {
  const terms = search.value.toLowerCase().split(/\s+/);
  return (
    terms.every((term) => words.includes(term)) &&
    (!game.value || run.game === game.value) &&
    (!method.value || run.method === method.value) &&
    (!data.value || run.data === Number(data.value)) &&
    (acting.value === AS_TRAINED || acting.value in run.results)
  );
}

/** Shows the rows that the filters want, in order, and says how many there are. */
function update() {
  shown = rows.filter(isWanted).sort(compare);
  for (const { run, cells, link } of shown) {
    columns.forEach((column, i) => {
      (i ? cells[i] : link).textContent = column.show(run);
    });
  }
  body.replaceChildren(...shown.map((row) => row.line));
  columns.forEach((column, i) => {
    const order = sorting.descending ? "descending" : "ascending";
    if (sorting.column === column) heads[i].setAttribute("aria-sort", order);
    else heads[i].removeAttribute("aria-sort");
  });
  const unit = numbers.value === "score" ? "normalised scores" : "mean raw returns";
  byId("shown").textContent = `${shown.length.toLocaleString("en")} of ${plural(rows.length, "run")}; ${unit} per episode`;
}

function fill(select, all, options) {
  const made = options.map(([value, name]) => html("option", { value }, name));
  select.append(...(all ? [html("option", { value: "" }, all)] : []), ...made);
}

const distinct = (value) => [...new Set(report.runs.map(value))].sort().map((one) => [one, one]);
const modes = [...new Set(report.runs.flatMap((run) => Object.keys(run.results)))].sort();
fill(game, "all games", distinct((run) => run.game));
fill(method, "all methods", distinct((run) => run.method));
fill(acting, null, [AS_TRAINED, ...modes].map((mode) => [mode, mode]));
fill(data, "all data", report.conditions.map((_, i) => [String(i), ownData(i)]));
byId("data-label").hidden = report.conditions.length < 2;
form.hidden = false;
search.addEventListener("input", update);
for (const select of [game, method, acting, data, numbers]) select.addEventListener("change", update);
form.addEventListener("submit", (event) => event.preventDefault());
// The fields change after the event.
form.addEventListener("reset", () => setTimeout(update));
update();
followAddress();
