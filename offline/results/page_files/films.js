// Recorded play: the bytes lie in script elements of their own and are read when a run is opened.

const filmsOf = JSON.parse(byId("films").textContent);
const TYPES = { gif: "image/gif", png: "image/png", mp4: "video/mp4" };
const still = matchMedia("(prefers-reduced-motion: reduce)");

function film({ title, kind, path, block, reason }) {
  const file = html("p", { class: "path" }, path);
  if (!block) return html("li", { class: "absent" }, html("p", {}, `${title}: ${reason}`), file);
  const source = `data:${TYPES[kind]};base64,${byId(block).textContent}`;
  const picture = kind === "mp4"
    ? html("video", { controls: true, preload: "metadata", src: source, "aria-label": title })
    : html("img", { src: source, alt: `Recorded play, ${title}`, loading: "lazy" });
  // Whoever asked for less motion opens a film that would start by itself.
  const open = kind !== "gif" || !still.matches;
  return html("li", {},
    html("details", { open }, html("summary", {}, title), html("div", { class: "picture" }, picture)),
    file);
}

/** All films of a run. */
function recordedPlay(run) {
  const films = filmsOf[run.id] ?? [];
  if (!films.length) {
    const command = `python -m offline.record`;
    return html("p", { class: "empty" }, "Nothing was recorded. ", html("code", {}, command), " films a run.");
  }
  return html("ul", { class: "films" }, films.map(film));
}
