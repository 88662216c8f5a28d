// Elements and numbers. Text goes through textContent alone, so nothing that a run is called is HTML.

const SVG = "http://www.w3.org/2000/svg";
const report = JSON.parse(document.getElementById("report").textContent);
const byId = (id) => document.getElementById(id);

function create(namespace, name, attributes, children) {
  const made = namespace
    ? document.createElementNS(namespace, name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null) made.setAttribute(key, value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null));
  return made;
}

/** An HTML element; children are elements or text. */
const html = (name, attributes = {}, ...children) => create(null, name, attributes, children);

/** An SVG element. */
const svg = (name, attributes = {}, ...children) => create(SVG, name, attributes, children);

/** A number as people read it; a dash where there is none. */
const number = (value, digits = 2) =>
  value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", "−");

const plural = (count, thing) => `${count.toLocaleString("en")} ${thing}${count === 1 ? "" : "s"}`;

/** A frame that scrolls what is wider than the screen. */
const scrolling = (label, ...children) =>
  html("div", { class: "scroll", role: "region", "aria-label": label, tabindex: 0 }, ...children);

/** A table; `sides` are "text" or "number" by column, and the first cell of a row names it. */
function table(label, header, sides, rows) {
  const head = header.map((text, i) => html("th", { scope: "col", class: sides[i] }, text));
  const lines = rows.map((row) =>
    html(
      "tr",
      {},
      row.map((cell, i) =>
        i
          ? html("td", { class: sides[i] }, cell)
          : html("th", { scope: "row", class: sides[i] }, cell),
      ),
    ),
  );
  const whole = html("table", {}, html("thead", {}, html("tr", {}, head)), html("tbody", {}, lines));
  return scrolling(label, whole);
}

const unfolding = (summary, make) => {
  // What is inside is made when it is asked for: tables of a thousand rows cost time.
  const details = html("details", {}, html("summary", {}, summary));
  details.addEventListener("toggle", () => details.append(make()), { once: true });
  return details;
};
