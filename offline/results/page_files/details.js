// The view of one run. Its address is #run/<env_name>/<xpid>, so that it can be kept and sent.

const PREFIX = "#run/";
const dialog = byId("run");
const pageTitle = document.title;

const address = (run) => PREFIX + run.id.split("/").map(encodeURIComponent).join("/");
const runTitle = (run) => `${run.game}, ${run.method}, seed ${run.seed}`;

/** Splits down, acting modes across. */
function resultsTable(run) {
  const modes = Object.keys(run.results);
  const splits = report.splits.filter((split) => modes.some((mode) => split in run.results[mode]));
  const rows = splits.map((split) => [
    split,
    ...modes.map((mode) => resultText(run, run.results[mode][split])),
  ]);
  rows.push(["checkpoint", ...modes.map((mode) => run.results[mode].checkpoint)]);
  const header = ["levels", ...modes.map((mode) => (mode === run.trained ? `${mode} (as trained)` : mode))];
  const note = "Mean raw return ± standard error over episodes, the score in brackets and the number of episodes.";
  return [table("Results", header, header.map((_, i) => (i ? "number" : "text")), rows), html("p", { class: "note" }, note)];
}

function resultText(run, result) {
  if (!result) return "–";
  const [mean, error, episodes] = result;
  return `${number(mean)} ± ${error === null ? "n/a" : number(error)} (${number(scoreOf(run, mean))}), ${episodes}`;
}

/** Every setting; first those that differ from what most runs have, then those that vary. */
function settingsTable(run) {
  const own = run.details.settings;
  const rows = Object.entries(report.common).map(([flag, common]) => {
    const varies = typeof common === "number"; // the number of values, none of them common
    const value = (flag in own ? own[flag] : common) ?? "not set";
    return { flag, value, differs: flag in own && !varies, varies, common };
  });
  const rank = (row) => (row.differs ? 0 : row.varies ? 1 : 2);
  rows.sort((a, b) => rank(a) - rank(b));
  const different = rows.filter((row) => row.differs).length;
  const shown = table("Settings", ["setting", "this run", "most runs"], ["text", "text", "text"],
    rows.map((row) => [
      row.differs ? html("span", { class: "differs" }, row.flag) : row.flag,
      row.value === "" ? "empty" : row.value,
      row.varies ? `${row.common} values` : row.differs ? row.common || "empty" : "the same",
    ]));
  const differ = different === 1 ? "1 setting differs" : `${different || "No"} settings differ`;
  const note = `${differ} from what more than half of all runs have. Where no value is that common, it is told how many there are.`;
  return [html("p", { class: "note" }, note), shown];
}

/** The maps of a run, one shown at a time where it acted in both modes. */
function levelMaps(run) {
  const { levels } = run.details;
  const modes = Object.keys(levels.played);
  const place = html("div");
  const show = (mode) => place.replaceChildren(levelMap(levels, levels.played[mode], run.range));
  show(modes.includes(run.trained) ? run.trained : modes[0]);
  if (modes.length === 1) return place;
  const choice = html("select", {}, modes.map((mode) => html("option", { value: mode }, mode)));
  choice.value = run.trained;
  choice.addEventListener("change", () => show(choice.value));
  return html("div", {}, html("label", { class: "inline" }, "Acting ", choice), place);
}

function sections(run) {
  const { details } = run;
  if (!details) {
    const text = "The page has no room for the curves, levels and settings of this run. A report on fewer runs shows them.";
    return [html("p", { class: "note" }, text), html("h3", {}, "Recorded play"), recordedPlay(run)];
  }
  const broken = Object.entries(details.broken).map(([file, reason]) =>
    html("p", { class: "note" }, `${file} does not count: ${reason}`));
  return [
    ...broken,
    html("h3", {}, "Learning curves"),
    ...(details.curve ? curves(details.curve) : [html("p", { class: "empty" }, "logs.csv cannot be read.")]),
    html("h3", {}, "Training levels"),
    levelMaps(run),
    html("h3", {}, "Recorded play"),
    recordedPlay(run),
    html("h3", {}, "Settings"),
    ...settingsTable(run),
  ];
}

function neighbour(run, step, text) {
  const next = runBeside(run, step);
  return next
    ? html("a", { class: "button", href: address(next), "aria-label": `${text}: ${runTitle(next)}` }, text)
    : null;
}

function showRun(run) {
  const close = html("button", { type: "button" }, "Close");
  close.addEventListener("click", () => dialog.close());
  const title = html("h2", { id: "run-title", tabindex: -1 }, runTitle(run));
  const head = html("header", {},
    title,
    html("nav", { "aria-label": "Runs" }, neighbour(run, -1, "Previous"), neighbour(run, 1, "Next"), close));
  const facts = [report.conditions[run.data], run.label].filter(Boolean).join("; ");
  const body = html("div", { class: "body" },
    html("p", { class: "where" }, facts),
    html("p", { class: "path" }, run.folder),
    html("h3", {}, "Results"),
    ...resultsTable(run),
    ...sections(run));
  dialog.replaceChildren(head, body);
  document.title = runTitle(run);
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  body.scrollTop = 0;
  title.focus();
}

/** Shows what the address names: a run, or the page alone. */
function followAddress() {
  const { hash } = location;
  if (!hash.startsWith(PREFIX)) {
    if (dialog.open) dialog.close();
    return;
  }
  const id = hash.slice(PREFIX.length).split("/").map(decoded).join("/");
  const run = report.runs.find((one) => one.id === id);
  if (run) showRun(run);
  else if (dialog.open) dialog.close();
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // an address that somebody cut off
  }
}

dialog.addEventListener("close", () => {
  const { hash } = location;
  if (hash.startsWith(PREFIX)) history.replaceState(null, "", location.href.slice(0, -hash.length));
  dialog.replaceChildren();
  document.title = pageTitle;
  // The browser gives the focus back to the link, except where the view opened with the page.
  if (document.activeElement === document.body) byId("runs-title").focus();
});
// A click beside the view, on its backdrop, closes it too.
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close();
});
addEventListener("hashchange", followAddress);
