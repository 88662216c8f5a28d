// The level map: a cell per training level, coloured by the return that the evaluation had on it.

/** Where a return lies between those that count as 0 and as 1, in percent. */
function share(value, [lowest, highest]) {
  return Math.round(100 * Math.min(1, Math.max(0, (value - lowest) / (highest - lowest))));
}

/** Levels as [level, return, episodes], those that were not played with null. */
function cellsOf(levels, [played, returns, episodes]) {
  const known = new Map(played.map((level, i) => [level, [level, returns[i], episodes[i]]]));
  if (!levels.cells) return [...known.values()];
  return Array.from({ length: levels.count }, (_, level) => known.get(level) ?? [level, null, 0]);
}

const levelText = ([level, value, episodes]) =>
  value === null
    ? `Level ${level}: not played`
    : `Level ${level}: mean return ${number(value)} in ${plural(episodes, "episode")}`;

/** The map for one acting mode. */
function levelMap(levels, played, scores) {
  const cells = cellsOf(levels, played);
  const readout = html("p", { class: "readout" }, "Point at a level, or move through them with the arrow keys.");
  const boxes = cells.map((cell, i) => {
    const box = html("button", {
      type: "button",
      class: cell[1] === null ? "cell unplayed" : "cell",
      tabindex: i ? -1 : 0,
      "aria-label": levelText(cell),
    });
    if (cell[1] !== null) box.style.setProperty("--share", `${share(cell[1], scores)}%`);
    const say = () => {
      readout.textContent = levelText(cell);
    };
    box.addEventListener("focus", say);
    box.addEventListener("pointerenter", say);
    return box;
  });
  const map = html("div", { class: "map", role: "group", "aria-label": "Returns by training level" }, boxes);
  map.addEventListener("keydown", (event) => moveFocus(event, boxes));
  return html("div", {}, map, readout, levelLegend(scores), levelTable(cells), levelNote(levels, cells));
}

/** One cell is in the tab order; arrows, Home and End lead to the others. */
function moveFocus(event, boxes) {
  const at = boxes.indexOf(document.activeElement);
  const perRow = boxes.filter((box) => box.offsetTop === boxes[0].offsetTop).length;
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: perRow, ArrowUp: -perRow };
  const aim = { Home: 0, End: boxes.length - 1 }[event.key] ?? at + steps[event.key];
  if (at < 0 || !(aim in boxes)) return;
  event.preventDefault();
  boxes[at].tabIndex = -1;
  boxes[aim].tabIndex = 0;
  boxes[aim].focus();
}

function levelLegend([lowest, highest]) {
  return html("p", { class: "legend scale" },
    html("span", {}, `${number(lowest)} or less (score 0)`),
    html("span", { class: "ramp", "aria-hidden": "true" }),
    html("span", {}, `${number(highest)} or more (score 1)`),
    html("span", { class: "cell unplayed", "aria-hidden": "true" }),
    html("span", {}, "not played"));
}

function levelTable(cells) {
  const played = cells.filter((cell) => cell[1] !== null);
  return unfolding("The levels as a table", () =>
    table("Returns by training level", ["level", "mean return", "episodes"],
      ["number", "number", "number"],
      played.map(([level, value, episodes]) => [String(level), number(value), String(episodes)])));
}

function levelNote(levels, cells) {
  const played = cells.filter((cell) => cell[1] !== null).length;
  const others = levels.cells || played === levels.count ? "" : " The others are not drawn.";
  const text = `The evaluation played ${played} of ${plural(levels.count, "training level")}.${others}`;
  return html("p", { class: "note" }, text);
}
