// The page of a run: its map and voids, texts written from them, known texts, favourites.
// All state is in the address: what it says is what is shown, and what is written again.

const $ = (id) => document.getElementById(id);
const SHADES = 64; // cells of the map's density, across
const state = { map: null, voids: [], titles: new Map(), texts: [], kept: [], writing: null, theme: null, way: null, run: null };

// ---- asking ------------------------------------------------------------------------------

async function ask(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  const key = sessionStorage.getItem("key");
  if (key) headers.Authorization = `Bearer ${key}`;
  const options = body === undefined ? { headers, signal }
    : { method: "POST", headers, body: JSON.stringify(body), signal };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the service does not answer; is it running?");
  }
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  if (answer.status === 401) $("unlock").hidden = false;
  throw new Error(problem.detail || `the service answered ${answer.status}`);
}

const json = async (path, body) => (await ask(path, body)).json();

async function told(work, retry) {
  try {
    say("");
    return await work();
  } catch (error) {
    if (error.name !== "AbortError") say(error.message, retry);
    return undefined;
  }
}

function say(words, retry) {
  $("status").replaceChildren(...(words ? [`${words[0].toUpperCase()}${words.slice(1)}. `] : []));
  if (words && retry) $("status").append(button("Try again", retry));
}

// ---- small parts -------------------------------------------------------------------------

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter((child) => child !== null));
  return made;
}

const button = (words, onclick, more = {}) => element("button", { type: "button", textContent: words, onclick, ...more });
const digits = (value, places = 3) => (value === null || value === undefined ? "–" : Number(value).toFixed(places));
const named = (known) => known.title || known.text.slice(0, 60);

// ---- the address -------------------------------------------------------------------------

const FIELDS = { n: "5", seed: "0", near: "", first: "", last: "", at: "10", topic: "", groups: "", group: "", "void-id": "", query: "" };
const SWITCHES = { novel: true, valid: true, hit: false, rings: true };
const mode = () => document.querySelector("input[name=mode]:checked").value;

function remember(changes = {}) {
  const params = new URLSearchParams(), before = new URLSearchParams(location.search);
  if (mode() !== "any") params.set("mode", mode());
  for (const [name, usual] of Object.entries(FIELDS)) if ($(name).value !== usual) params.set(name, $(name).value);
  if (!state.voids.length && before.has("void-id")) params.set("void-id", before.get("void-id")); // not listed yet
  for (const [name, usual] of Object.entries(SWITCHES)) if ($(name).checked !== usual) params.set(name, $(name).checked ? "1" : "0");
  if (state.theme) params.set("theme", state.theme);
  if (state.run) params.set("run", state.run);
  const written = "written" in changes ? changes.written : before.has("written");
  if (written) params.set("written", "1");
  history.replaceState(null, "", params.size ? `?${params}` : location.pathname);
}

function recall() {
  const params = new URLSearchParams(location.search);
  for (const name of Object.keys(FIELDS)) if (params.has(name)) $(name).value = params.get(name);
  for (const name of Object.keys(SWITCHES)) if (params.has(name)) $(name).checked = params.get(name) === "1";
  const wanted = document.querySelector(`input[name=mode][value="${CSS.escape(params.get("mode") || "any")}"]`);
  if (wanted) wanted.checked = true;
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  state.theme = params.get("theme"); // null: the system's
  document.documentElement.dataset.theme = state.theme || (dark ? "dark" : "light");
  showMode();
}

function showMode() {
  for (const part of document.querySelectorAll("[data-mode]")) part.classList.toggle("on", part.dataset.mode === mode());
}

// ---- the map -----------------------------------------------------------------------------

function frame() {
  const canvas = $("map"), ratio = devicePixelRatio || 1;
  const { low, size } = state.bounds, scale = Math.min(canvas.width / size[0], canvas.height / size[1]) * 0.94;
  const shift = [0, 1].map((i) => ([canvas.width, canvas.height][i] - size[i] * scale) / 2);
  const place = ([x, y]) => [shift[0] + (x - low[0]) * scale, canvas.height - shift[1] - (y - low[1]) * scale];
  return { canvas, ratio, place };
}

function bound() {
  const all = [...state.map.points, ...state.voids.map((one) => [one.x, one.y])];
  const axis = (i) => all.map((point) => point[i]);
  const low = [0, 1].map((i) => axis(i).reduce((a, b) => Math.min(a, b), Infinity));
  const high = [0, 1].map((i) => axis(i).reduce((a, b) => Math.max(a, b), -Infinity));
  state.bounds = { low, size: [0, 1].map((i) => Math.max(high[i] - low[i], 1e-6)) };
}

function draw() {
  if (!state.map || !state.map.points.length) return;
  const box = $("map").getBoundingClientRect();
  $("map").width = box.width * (devicePixelRatio || 1); // which clears it
  $("map").height = box.height * (devicePixelRatio || 1);
  const { canvas, ratio, place } = frame(), pen = canvas.getContext("2d");
  const style = getComputedStyle(document.documentElement), dense = style.getPropertyValue("--dense").trim();
  const cell = canvas.width / SHADES, counts = new Map();
  for (const point of state.map.points) {
    const key = place(point).map((value) => Math.floor(value / cell)).join();
    counts.set(key, (counts.get(key) || 0) + 1);
  }
  const most = Math.log1p(Math.max(...counts.values()));
  for (const [key, count] of counts) {
    const [column, row] = key.split(",").map(Number);
    pen.fillStyle = `rgb(${dense} / ${0.08 + (0.85 * Math.log1p(count)) / most})`;
    pen.fillRect(column * cell, row * cell, cell - ratio * 0.5, cell - ratio * 0.5);
  }
  if (!$("rings").checked) return;
  const widest = Math.max(...state.voids.map((one) => one.radius), 1e-6);
  for (const one of state.voids) {
    const [x, y] = place([one.x, one.y]), chosen = String(one.id) === $("void-id").value && mode() === "void";
    pen.beginPath();
    pen.arc(x, y, (6 + (8 * one.radius) / widest) * ratio, 0, 2 * Math.PI);
    pen.lineWidth = (chosen ? 5 : 2.5) * ratio;
    pen.strokeStyle = style.getPropertyValue("--void");
    pen.stroke();
  }
}

function nearestOf(event) {
  const { canvas, ratio, place } = frame(), box = canvas.getBoundingClientRect();
  const x = (event.clientX - box.left) * ratio, y = (event.clientY - box.top) * ratio;
  const away = (point) => { const [a, b] = place(point); return Math.hypot(a - x, b - y) / ratio; };
  let void_ = null, nearest = $("rings").checked ? 16 : 0; // pixels
  for (const one of state.voids) { const far = away([one.x, one.y]); if (far < nearest) [void_, nearest] = [one, far]; }
  let best = -1, least = 12;
  state.map.points.forEach((point, i) => { const far = away(point); if (far < least) [best, least] = [i, far]; });
  return { void_, row: best < 0 ? null : state.map.rows[best] };
}

let asked = 0;
async function hover(event) {
  if (!state.map) return;
  const { void_, row } = nearestOf(event), turn = ++asked;
  if (void_) { $("hover").textContent = `void ${void_.id}: click to open it`; return; }
  if (row === null) { $("hover").textContent = ""; return; }
  await new Promise((go) => setTimeout(go, 120));
  if (turn !== asked) return;
  const known = state.titles.get(row) || (await json(`v1/texts/${row}`).catch(() => null));
  if (!known) return;
  state.titles.set(row, known);
  if (turn === asked) $("hover").textContent = named(known);
}

async function pick(event) {
  if (!state.map) return;
  const { void_, row } = nearestOf(event);
  if (void_) { choose(void_.id); return; }
  const known = row === null ? null : state.titles.get(row) || (await told(() => json(`v1/texts/${row}`)));
  if (known) near(known.text);
}

// ---- voids -------------------------------------------------------------------------------

function listVoids(found) {
  state.voids = [...found.voids].sort((a, b) => b.texts - a.texts); // first those that most was written from
  const usual = $("void-id").value || new URLSearchParams(location.search).get("void-id");
  $("void-id").replaceChildren(...state.voids.map((one) => element("option", { value: one.id, textContent: `void ${one.id}` })));
  if (usual) $("void-id").value = usual; // none is chosen where that one is not there
  $("voids").replaceChildren(...state.voids.map((one) => element("li", {},
    button(`Void ${one.id} – ${origin(one)}, score ${digits(one.score, 2)}, radius ${digits(one.radius)} rad, between ${one.rim.slice(0, 2).map(named).join(" and ")}`,
      () => choose(one.id), { ariaPressed: "false" }))));
  if (!found.voids.length) $("voids").append(element("li", { className: "small", textContent: "No void stands in this space: no enclosed place is emptier than chance explains. Write near a text, between two, or on a topic." }));
}

function origin(one) {
  const texts = one.texts === 1 ? "1 new text" : `${one.texts || "no"} new texts`;
  return one.written ? `around ${texts} of this run` : `found by the search, ${texts} of this run in it`;
}

function choose(id) {
  $("void-id").value = String(id);
  document.querySelector("input[name=mode][value=void]").checked = true;
  showMode();
  showVoid();
  remember({ written: false });
  draw();
}

function showVoid() {
  const one = mode() === "void" && state.voids.find((each) => String(each.id) === $("void-id").value);
  [...$("voids").querySelectorAll("button")].forEach((each, i) => { each.ariaPressed = String(one === state.voids[i]); });
  $("void").hidden = !one;
  if (!one) return;
  const facts = { "void score": digits(one.score, 2), "radius, rad": digits(one.radius), p: digits(one.p_value, 3), "where from": origin(one) };
  if (one.kind) facts[`${one.kind} groups`] = one.groups.join(", ");
  $("void").replaceChildren(
    element("h3", { textContent: `Void ${one.id}` }),
    element("dl", {}, ...Object.entries(facts).flatMap(([name, value]) => [element("dt", { textContent: name }), element("dd", { textContent: value })])),
    element("p", {}, button("Write from here", () => { $("ask").requestSubmit(); $("writing").focus(); })),
    element("h3", { textContent: "Texts on its rim" }),
    element("ul", {}, ...one.rim.map((known) => element("li", {}, element("details", {}, element("summary", { textContent: named(known) }), element("p", { className: "text", textContent: known.text }))))));
}

// ---- writing -----------------------------------------------------------------------------

function request() {
  const wanted = { n: Number($("n").value), seed: Number($("seed").value), novel: $("novel").checked, valid: $("valid").checked, hit: $("hit").checked };
  if (mode() === "any" && $("groups").value) wanted.groups = $("groups").value;
  if (mode() === "any" && $("group").value.trim()) wanted.group = [$("group").value.trim()];
  if (mode() === "void") wanted.void = Number($("void-id").value);
  if (mode() === "near") wanted.near = $("near").value;
  if (mode() === "between") wanted.between = [$("first").value, $("last").value];
  if (mode() === "topic") wanted.topic = $("topic").value;
  return wanted;
}

const NEEDED = { near: ["near"], between: ["first", "last"], topic: ["topic"] };

async function write() {
  if (state.writing) state.writing.abort();
  if (mode() === "void" && !$("void-id").value) { say(state.voids.length ? "that void is not in this run; choose another one" : "no void stands in this run; write from elsewhere"); return; }
  const empty = (NEEDED[mode()] || []).find((name) => !$(name).value.trim());
  if (empty) { say(`“${document.querySelector(`label[for=${empty}]`).textContent}” is empty`); $(empty).focus(); return; }
  const mine = (state.writing = new AbortController());
  remember({ written: true });
  state.texts = [];
  $("texts").replaceChildren();
  $("end").textContent = "Writing…";
  $("stop").hidden = false;
  const ended = await told(async () => {
    const answer = await ask("v1/generate", request(), mine.signal);
    let end = null;
    for await (const line of lines(answer)) {
      if (line.item) add(line.item);
      if (line.error) throw new Error(line.error.detail);
      end = line.end || end;
    }
    if (!end) throw new Error("the answer broke off");
    return end;
  }, write);
  if (state.writing !== mine) return;
  state.writing = null;
  if (document.activeElement === $("stop")) $("go").focus();
  $("stop").hidden = true;
  const count = state.texts.length, written = `${count} ${count === 1 ? "text" : "texts"}`;
  if (!ended) $("end").textContent = mine.signal.aborted ? `Stopped after ${written}.` : "";
  else $("end").textContent = `${written} of ${ended.asked}, ${ended.decodes} decodes.${ended.notes.map((note) => ` ${note}.`).join("")}${count ? "" : advice()}`;
}

function advice() {
  if (mode() !== "void") return " Ask for less: switch filters off, or look elsewhere.";
  return " Little can be written from most voids; try one that new texts of this run lie in, any void, or near a text on its rim.";
}

async function* lines(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    const parts = (rest + (value || "")).split("\n");
    rest = done ? "" : parts.pop();
    for (const part of parts) if (part.trim()) yield JSON.parse(part);
    if (done) return;
  }
}

function add(item) {
  state.texts.push(item);
  $("end").textContent = `Writing… ${state.texts.length} so far`;
  const facts = [`novelty ${digits(item.novelty, 2)}`, `void score there ${digits(item.place.score, 2)}`];
  if (item.place.void !== null) facts.unshift(`void ${item.place.void}`);
  else if (item.place.in_void) facts.unshift("in a void");
  if (item.place.groups.length) facts.push(`amid ${item.place.groups.join(", ")}`);
  if (item.hit !== null) facts.push(item.hit ? "comes back to its place" : "does not come back to its place");
  const nearest = item.nearest && item.nearest[0];
  $("texts").append(element("li", {},
    element("p", { className: "small" }, element("span", { className: `verdict ${item.verdict}`, textContent: item.verdict }), ` · ${facts.join(" · ")}`),
    element("p", { className: "text", textContent: item.text }),
    element("details", {}, element("summary", { textContent: "Why, and what is nearest" }),
      element("ul", {}, ...item.reasons.map((reason) => element("li", { className: "small", textContent: reason }))),
      nearest ? element("p", { className: "small", textContent: "Against the nearest known text (struck out: only there; underlined: only here):" }) : null,
      nearest ? difference(nearest.text, item.text) : null,
      item.nearest === null ? element("p", { className: "small", textContent: "The store does not answer: nearest texts are missing." })
        : element("ul", {}, ...item.nearest.map((known) => element("li", { className: "small", textContent: `${digits(known.angle)} rad: ${known.text}` })))),
    element("p", { className: "line" },
      button("Keep", (event) => {
        keep({ text: item.text, verdict: item.verdict, novelty: item.novelty, void: item.place.void, nearest: nearest ? nearest.text : null });
        event.target.textContent = "Kept";
      }),
      button("Near this", () => near(item.text)))));
}

function difference(a, b) {
  // words of the longest common subsequence stay; texts have at most a few hundred words
  const [x, y] = [a, b].map((text) => text.split(/(?<=\s)/));
  const table = Array.from({ length: x.length + 1 }, () => new Uint16Array(y.length + 1));
  for (let i = x.length - 1; i >= 0; i--)
    for (let j = y.length - 1; j >= 0; j--)
      table[i][j] = x[i].trim() === y[j].trim() ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
  const shown = element("p", { className: "text" });
  for (let i = 0, j = 0; i < x.length || j < y.length;) {
    if (i < x.length && j < y.length && x[i].trim() === y[j].trim()) { shown.append(y[j]); i++; j++; }
    else if (j >= y.length || (i < x.length && table[i + 1][j] >= table[i][j + 1])) shown.append(element("del", { textContent: x[i++] }));
    else shown.append(element("ins", { textContent: y[j++] }));
  }
  return shown;
}

function near(text) {
  $("near").value = text;
  document.querySelector("input[name=mode][value=near]").checked = true;
  showMode();
  showVoid();
  remember({ written: false });
  $("near").focus();
}

let sliding = 0;
async function slide() {
  const share = Number($("at").value) / 20, turn = ++sliding;
  $("at-told").textContent = `${Math.round(100 * share)} %`;
  remember();
  if (!$("first").value || !$("last").value) { $("way").textContent = ""; return; }
  await new Promise((go) => setTimeout(go, 150));
  if (turn !== sliding) return;
  const ends = { first: $("first").value, last: $("last").value };
  if (!state.way || state.way.first !== ends.first || state.way.last !== ends.last) {
    const way = await told(() => json("v1/interpolate", { ...ends, steps: 21 }));
    if (!way) return;
    state.way = { ...ends, items: way.items };
  }
  if (turn === sliding) $("way").textContent = state.way.items[Number($("at").value)].text;
}

// ---- known texts, favourites ---------------------------------------------------------------

async function search() {
  remember();
  const query = $("query").value.trim();
  if (!query) { $("found").replaceChildren(); return; }
  const found = await told(() => json(`v1/texts?${new URLSearchParams({ query, k: 10 })}`), search);
  if (!found) return;
  $("found").replaceChildren(...found.map((known) => element("li", { className: "card" },
    element("details", {}, element("summary", { textContent: named(known) }), element("p", { className: "text", textContent: known.text })),
    element("p", { className: "line" }, button("Near this", () => near(known.text)),
      button("From", () => end("first", known.text)), button("To", () => end("last", known.text))))));
  if (!found.length) $("found").append(element("li", { className: "small", textContent: "No known text has all of these words." }));
}

function end(which, text) {
  $(which).value = text;
  document.querySelector("input[name=mode][value=between]").checked = true;
  showMode();
  showVoid();
  remember({ written: false });
  slide();
}

function keep(item) {
  if (!state.kept.some((other) => other.text === item.text)) state.kept.push(item);
  store();
}

function store() {
  try { localStorage.setItem("kept", JSON.stringify(state.kept)); } catch { say("this browser keeps nothing: export before you leave"); }
  showKept();
}

function stored() {
  try {
    const found = JSON.parse(localStorage.getItem("kept") || "[]");
    return Array.isArray(found) ? found.filter((item) => item && typeof item.text === "string") : [];
  } catch { return []; }
}

function showKept() {
  $("exports").hidden = !state.kept.length;
  $("kept").replaceChildren(...state.kept.map((item) => element("li", { className: "card" },
    element("p", { className: "text", textContent: item.text }),
    button("Remove", () => { state.kept = state.kept.filter((other) => other !== item); store(); $("kept-title").focus(); }))));
  if (!state.kept.length) $("kept").append(element("li", { className: "small", textContent: "Texts that you keep are listed here, on this device only." }));
}

const EXPORTS = {
  json: () => ["application/json", JSON.stringify(state.kept, null, 2)],
  csv: () => {
    const names = ["text", "verdict", "novelty", "void", "nearest"];
    const cell = (value) => `"${String(value ?? "").replace(/^([=+\-@\t\r\n])/, "'$1").replaceAll('"', '""')}"`;
    return ["text/csv", [names.join(","), ...state.kept.map((item) => names.map((name) => cell(item[name])).join(","))].join("\r\n")];
  },
  md: () => ["text/markdown", state.kept.map((item) => `- ${item.text.replace(/[\\`*_[\]<>#!|]/g, "\\$&").replaceAll("\n", "\n  ")}\n  (${item.verdict}, novelty ${digits(item.novelty, 2)})`).join("\n")],
};

function save(kind) {
  const [type, words] = EXPORTS[kind]();
  const link = element("a", { href: URL.createObjectURL(new Blob([words], { type })), download: `texts.${kind}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// ---- the beginning -------------------------------------------------------------------------

async function load() {
  $("caption").textContent = "Loading the map…";
  const found = await told(() => Promise.all([json("v1/model"), json("v1/voids"), json("v1/map?points=5000")]), begin);
  if (!found) { $("caption").textContent = "The map is not there."; $("about").textContent = ""; return undefined; }
  const [facts, voids, map] = found;
  $("about").textContent = `${facts.corpus.source ? `${facts.corpus.source}: ` : ""}${facts.texts.toLocaleString("en")} texts in ${facts.model.dim} coordinates; voids sought in ${facts.void_dim}`;
  $("n").max = facts.limits.n;
  $("amid").hidden = !facts.groups.length;
  $("group-names").replaceChildren(...facts.groups.map((value) => element("option", { value })));
  const run = new URLSearchParams(location.search).get("run");
  state.run = facts.model_hash;
  if (run && run !== state.run) say("this address is of another run: its voids and texts were others");
  state.map = map;
  listVoids(voids);
  bound();
  $("caption").textContent = `${map.shown.toLocaleString("en")} of ${map.of.toLocaleString("en")} texts, pressed flat: ${Math.round(100 * map.share)} % of how they differ in ${map.void_dim} coordinates. Distances here mislead; voids were found in all ${map.void_dim}, and one may seem full here. Those around new texts were found by writing there.`;
  showVoid();
  draw();
  return found;
}

async function begin() {
  if (!(await load())) return; // what is wrong stays told
  if (mode() === "between") await slide();
  if ($("query").value) await search();
  if (new URLSearchParams(location.search).has("written")) await write();
}

recall();
state.kept = stored();
showKept();
$("ask").addEventListener("submit", (event) => { event.preventDefault(); write(); });
$("stop").addEventListener("click", () => state.writing && state.writing.abort());
$("search").addEventListener("submit", (event) => { event.preventDefault(); search(); });
$("where").addEventListener("change", () => { showMode(); showVoid(); remember({ written: false }); draw(); });
const BESIDE = ["rings", "query", "at"]; // change nothing of what is written
for (const name of [...Object.keys(FIELDS), ...Object.keys(SWITCHES)]) $(name).addEventListener("change", () => { remember(BESIDE.includes(name) ? {} : { written: false }); draw(); });
$("void-id").addEventListener("change", showVoid);
for (const name of ["at", "first", "last"]) $(name).addEventListener("input", slide);
for (const each of document.querySelectorAll("[data-export]")) each.addEventListener("click", () => save(each.dataset.export));
$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  root.dataset.theme = state.theme = root.dataset.theme === "dark" ? "light" : "dark";
  remember();
  draw();
});
$("map").addEventListener("mousemove", hover);
$("map").addEventListener("click", pick);
$("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", $("key").value);
  $("unlock").hidden = true;
  begin();
});
addEventListener("resize", draw);
await begin();
