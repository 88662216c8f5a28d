// Learning curves, drawn from the rows of logs.csv.

const SPLIT_NAMES = { train: "training", validation: "validation", test: "test" };
// On a phone as narrow as that, so that its letters are not shrunk.
const CHART = {
  width: Math.max(280, Math.min(460, innerWidth - 66)),
  height: 240,
  left: 46,
  right: 14,
  top: 12,
  bottom: 34,
};

/** Round numbers, about `count` of them, that span `low` to `high`. */
function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const first = Math.floor(low / step + 1e-9);
  const last = Math.ceil(high / step - 1e-9);
  const places = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const values = [];
  for (let i = first; i <= last; i++) values.push(i * step);
  return { values, places };
}

const known = (values) => values.filter((value) => value !== null);

function range(values) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  return low < high ? [low, high] : [low - 0.5, high + 0.5];
}

/** Pieces of a line, parted where a value is missing. */
function path(points) {
  let pen = "M";
  let text = "";
  for (const [x, y] of points) {
    if (y === null) {
      pen = "M";
      continue;
    }
    text += `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
    pen = "L";
  }
  return text;
}

/** One chart: `series` are {name, values}, and the name is the class that colours it. */
function chart(label, epochs, series, digits) {
  const every = series.flatMap((one) => known(one.values));
  if (!every.length) return html("p", { class: "empty" }, `${label}: nothing was logged.`);
  const c = CHART;
  const yTicks = ticks(...range(every), 4);
  const [bottom, top] = [yTicks.values[0], yTicks.values.at(-1)];
  const [first, last] = range(known(epochs));
  const xTicks = ticks(first, last, 5);
  const x = (epoch) => c.left + ((epoch - first) / (last - first)) * (c.width - c.left - c.right);
  const y = (value) =>
    c.height - c.bottom - ((value - bottom) / (top - bottom)) * (c.height - c.top - c.bottom);
  const grid = yTicks.values.map((value) => [
    svg("line", { class: "grid", x1: c.left, x2: c.width - c.right, y1: y(value), y2: y(value) }),
    svg("text", { x: c.left - 6, y: y(value) + 4, "text-anchor": "end" },
      number(value, yTicks.places)),
  ]);
  const below = xTicks.values
    .filter((value) => value >= first && value <= last)
    .map((value) =>
      svg("text", { x: x(value), y: c.height - c.bottom + 17, "text-anchor": "middle" },
        number(value, xTicks.places)),
    );
  const axis = svg("text", { x: c.width - c.right, y: c.height - 3, "text-anchor": "end" }, "epoch");
  const lines = series.map((one) =>
    svg("path", {
      class: `curve ${one.name}`,
      d: path(one.values.map((value, i) => [x(epochs[i]), value === null ? null : y(value)])),
    }),
  );
  const dots = series.map((one) =>
    one.values.map((value, i) =>
      value === null ? null
        : svg("circle", { class: `dot ${one.name}`, cx: x(epochs[i]), cy: y(value), r: 2 }),
    ),
  );
  const few = epochs.length <= 60;
  const drawing = svg(
    "svg",
    { viewBox: `0 0 ${c.width} ${c.height}`, role: "img", "aria-label": describe(label, series, digits) },
    grid, below, axis, lines, few ? dots : [],
  );
  const readout = html("p", { class: "readout", "aria-hidden": "true" });
  follow(drawing, readout, epochs, series, x, digits);
  const title = html("h4", {}, label);
  const keys = series.length > 1
    ? series.map((one) => html("span", { class: `key ${one.name}` }, SPLIT_NAMES[one.name]))
    : [];
  return html("div", { class: "chart" }, title, html("p", { class: "legend" }, keys), drawing, readout);
}

/** The chart in words, for those who do not see it. */
function describe(label, series, digits) {
  const said = series.map((one) => {
    const values = known(one.values);
    if (!values.length) return `${one.name}: not logged`;
    const name = series.length > 1 ? `${SPLIT_NAMES[one.name]} levels: ` : "";
    return `${name}from ${number(values[0], digits)} to ${number(values.at(-1), digits)}`;
  });
  return `${label} by epoch. ${said.join("; ")}.`;
}

/** Says the values at the epoch under the pointer. */
function follow(drawing, readout, epochs, series, x, digits) {
  const line = svg("line", { class: "pointer", y1: CHART.top, y2: CHART.height - CHART.bottom });
  const rest = () => {
    line.remove();
    say(epochs.length - 1);
  };
  const say = (i) => {
    const values = series.map((one) => {
      const name = series.length > 1 ? `${SPLIT_NAMES[one.name]} ` : "";
      return `${name}${number(one.values[i], digits)}`;
    });
    readout.textContent = `epoch ${epochs[i]}: ${values.join(", ")}`;
  };
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * CHART.width;
    let nearest = 0;
    epochs.forEach((epoch, i) => {
      if (Math.abs(x(epoch) - at) < Math.abs(x(epochs[nearest]) - at)) nearest = i;
    });
    line.setAttribute("x1", x(epochs[nearest]));
    line.setAttribute("x2", x(epochs[nearest]));
    drawing.append(line);
    say(nearest);
  });
  drawing.addEventListener("pointerleave", rest);
  rest();
}

/** Loss and returns of a run, and the same as a table. */
function curves(curve) {
  const splits = report.splits.filter((split) => known(curve[split]).length);
  const shown = curve.epoch.length;
  const told = [
    html("div", { class: "charts" },
      chart("Mean return", curve.epoch,
        splits.map((split) => ({ name: split, values: curve[split] })), 2),
      chart("Training loss", curve.epoch, [{ name: "loss", values: curve.loss }], 4)),
    unfolding("The curves as a table", () =>
      table("Learning curves", ["epoch", "training loss", ...splits.map((s) => `${s} return`)],
        ["number", "number", ...splits.map(() => "number")],
        curve.epoch.map((epoch, i) => [
          String(epoch),
          number(curve.loss[i], 4),
          ...splits.map((split) => number(curve[split][i])),
        ]))),
  ];
  if (shown < curve.rows) {
    const text = `${plural(shown, "row")} of ${curve.rows.toLocaleString("en")} in logs.csv, evenly spread.`;
    told.push(html("p", { class: "note" }, text));
  }
  return told;
}
