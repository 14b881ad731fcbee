"use strict";

/* The labelling page. An answer is put into localStorage first (the outbox), shown at once, sent, and only forgotten
   when the server has committed it: a lost connection, a reload or a second tab loses nothing. The state the page shows
   is what the server knows, with the outbox laid over it. */

const WORDS = { open: "Open", closed: "Closed", unsure: "Can’t tell" };
const AHEAD = 12; // crops that are loaded before they are asked about
const TIMEOUT = 10_000; // milliseconds
const RETRY = 1_500;

const $ = (id) => document.getElementById(id);
const channel = new BroadcastChannel("eyestate-label");

let known = null; // what the server said last
let me = null; // the annotator
let mine = new Map(); // place in the queue -> my answer
let undoable = []; // my answers that can be undone, oldest first: {id, crop, previous}
let current = 0; // place in the queue of the crop that is shown
let seen = false; // the crop is on the screen and may be answered
let view = "label";
let filter = "all";
let fromOverview = false; // an answered crop was opened there: go back after its answer is changed
let revealed = false; // the model's P(open); hidden again with every crop, as it would sway the answer
let pixelated = localStorage.getItem("eyestate/pixelated") === "yes";
const ahead = new Map(); // URL -> image, held so that the browser keeps it decoded

/* ---- Outbox ---- */

const outboxPrefix = () => `eyestate/outbox/${known.store}/`;
let posted = 0;
let changes = 0; // counts what makes a state that is under way too old

function post(operation) {
  changes += 1;
  const key = `${outboxPrefix()}${String(Date.now()).padStart(15, "0")}-${String(posted++).padStart(6, "0")}-${operation.id}`;
  localStorage.setItem(key, JSON.stringify({ store: known.store, annotator: me, ...operation }));
  send();
}

function outbox() {
  return Object.keys(localStorage)
    .filter((key) => key.startsWith(outboxPrefix()))
    .sort()
    .map((key) => ({ key, operation: JSON.parse(localStorage.getItem(key)) }))
    .filter(({ operation }) => operation);
}

let sending = false;
let retry = null;

async function send() {
  if (sending) return;
  sending = true;
  clearTimeout(retry);
  let sent = 0;
  let stale = !$("offline").hidden;
  try {
    for (let waiting = outbox(); waiting.length; waiting = outbox()) {
      const { key, operation } = waiting[0];
      const { kind, ...message } = operation;
      const response = await request(`/api/${kind}`, { method: "POST", body: JSON.stringify(message) });
      if (response.ok) {
        stale ||= (await response.json()).undone === false;
      } else if (response.status === 422) {
        trouble(`An answer was rejected: ${await reason(response)}`);
        stale = true;
      } else {
        throw new Error(await reason(response));
      }
      localStorage.removeItem(key);
      changes += 1;
      sent += 1;
    }
  } catch (error) {
    offline(error);
    stale = false;
    retry = setTimeout(send, RETRY);
  } finally {
    sending = false;
  }
  if (sent) channel.postMessage("changed");
  if (view === "done") drawDone();
  if (stale) await refresh();
}

async function request(path, options = {}) {
  const headers = { "Content-Type": "application/json", ...options.headers };
  return fetch(path, { signal: AbortSignal.timeout(TIMEOUT), ...options, headers });
}

async function reason(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answered ${response.status}`;
  }
}

function offline(error) {
  const waiting = known ? outbox().length : 0;
  const kept = waiting === 1 ? " 1 answer is" : ` ${waiting} answers are`;
  const why = error instanceof TypeError || error.name === "TimeoutError" ? "The server can’t be reached." : `The server reported an error: ${error.message}.`;
  $("offline").textContent = why + (waiting ? `${kept} kept in this browser and not saved yet.` : "") + " Trying again …";
  $("offline").hidden = false;
}

function trouble(text) {
  $("trouble").firstElementChild.textContent = text;
  $("trouble").hidden = false;
}

/* ---- State ---- */

let refreshing = Promise.resolve();

/* Bring the page up to what the server knows, one refresh after the other; false where that failed. */
function refresh() {
  refreshing = refreshing.then(load);
  return refreshing;
}

async function load() {
  const before = changes;
  let state;
  try {
    const response = await request(`/api/state${me ? `?annotator=${encodeURIComponent(me)}` : ""}`);
    if (response.status === 422) {
      forgetName(await reason(response));
      return false;
    }
    if (!response.ok) throw new Error(await reason(response));
    state = await response.json();
  } catch (error) {
    offline(error);
    clearTimeout(retry);
    retry = setTimeout(known ? refresh : start, RETRY);
    return false;
  }
  if (before !== changes) return load();
  if (known && known.store !== state.store) {
    location.reload();
    return false;
  }
  const first = !known;
  known = state;
  mine = new Map(known.votes.filter(([, who]) => who === me).map(([crop, , label]) => [crop, label]));
  undoable = known.actions;
  const places = new Map(known.crops.map((crop, place) => [crop.file, place]));
  for (const { operation } of outbox()) {
    if (operation.annotator === me) apply(operation, places);
  }
  if (first) makeGrid();
  if (!$("offline").hidden) {
    $("offline").hidden = true;
    send();
  }
  draw();
  return true;
}

function apply(operation, places) {
  const last = undoable.findIndex((action) => action.id === operation.id);
  if (operation.kind === "answer" && last < 0 && places.has(operation.file)) {
    const crop = places.get(operation.file);
    undoable.push({ id: operation.id, crop, previous: mine.get(crop) ?? null });
    mine.set(crop, operation.label);
  } else if (operation.kind === "undo" && last >= 0) {
    putBack(undoable.splice(last, 1)[0]);
  }
}

function putBack({ crop, previous }) {
  if (previous) mine.set(crop, previous);
  else mine.delete(crop);
}

/* Everyone's votes on each crop, my own as I see them now. */
function votesByCrop() {
  const votes = known.crops.map(() => []);
  for (const [crop, who, label] of known.votes) if (who !== me) votes[crop].push([who, label]);
  for (const [crop, label] of mine) votes[crop].push([me, label]);
  return votes;
}

const disagree = (votes) => votes.some(([, label]) => label === "open") && votes.some(([, label]) => label === "closed");

function nextUnanswered(from) {
  const total = known.crops.length;
  for (let step = 0; step < total; step++) {
    const place = (from + step) % total;
    if (!mine.has(place)) return place;
  }
  return null;
}

/* ---- Answers ---- */

function answer(label) {
  if (view !== "label" || !seen) return;
  const place = current;
  const before = mine.get(place) ?? null;
  if (before !== label) {
    const id = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
    mine.set(place, label);
    undoable.push({ id, crop: place, previous: before });
    post({ kind: "answer", id, file: known.crops[place].file, label });
  }
  say(`${WORDS[label]}: ${known.crops[place].file}`);
  if (fromOverview) {
    current = place;
    go("overview");
  } else {
    goOn(place + 1);
  }
}

function undo() {
  const action = undoable.pop();
  if (!action) return say("There is nothing to undo.");
  const label = mine.get(action.crop);
  putBack(action);
  post({ kind: "undo", id: action.id });
  say(`Undid “${WORDS[label] ?? "nothing"}”: ${known.crops[action.crop].file}`);
  fromOverview = false;
  view = "label";
  show(action.crop);
  draw();
}

function say(text) {
  $("said").textContent = text;
}

/* ---- Label view ---- */

function goOn(from) {
  const place = nextUnanswered(from);
  if (place === null) return go("done");
  show(place);
  draw();
}

const cropUrl = (place) => `/crops/${known.crops[place].image}/${pixelated ? "exact" : "large"}.png`;

let showing = 0;

async function show(place) {
  if (place !== current) revealed = false;
  current = place;
  seen = false;
  const turn = ++showing;
  const image = $("crop");
  image.alt = `Eye crop ${known.crops[place].file}`;
  image.classList.toggle("exact", pixelated);
  image.classList.add("waiting");
  image.src = cropUrl(place);
  drawCrop();
  try {
    await image.decode();
  } catch {
    if (turn !== showing) return;
    $("unseen").hidden = false;
    await refresh(); // says so if the server is gone
    setTimeout(() => turn === showing && show(place), RETRY);
    return;
  }
  if (turn !== showing) return;
  $("unseen").hidden = true;
  image.classList.remove("waiting");
  seen = true;
  prefetch();
}

function prefetch() {
  const wanted = new Set();
  for (let place = current + 1; wanted.size < AHEAD && place < current + known.crops.length; place++) {
    const near = place % known.crops.length;
    if (!mine.has(near)) wanted.add(cropUrl(near));
  }
  for (const url of ahead.keys()) if (!wanted.has(url)) ahead.delete(url);
  for (const url of wanted) {
    if (ahead.has(url)) continue;
    const image = new Image();
    image.src = url;
    image.decode().catch(() => ahead.delete(url));
    ahead.set(url, image);
  }
}

function drawCrop() {
  const crop = known.crops[current];
  $("place").textContent = `${current + 1} of ${known.crops.length}`;
  $("file").textContent = crop.file;
  $("belief").textContent = !revealed ? "" : crop.p_open === null ? "The model has no score" : `Model: P(open) ${crop.p_open.toFixed(2)}`;
  $("model").setAttribute("aria-pressed", revealed);
  $("pixels").setAttribute("aria-pressed", pixelated);
  $("undo").disabled = !undoable.length;
  for (const button of document.querySelectorAll("[data-answer]")) {
    button.setAttribute("aria-pressed", mine.get(current) === button.dataset.answer);
  }
}

function togglePixels() {
  pixelated = !pixelated;
  localStorage.setItem("eyestate/pixelated", pixelated ? "yes" : "no");
  show(current);
}

function toggleModel() {
  revealed = !revealed;
  drawCrop();
}

function step(by) {
  fromOverview = false;
  show((current + by + known.crops.length) % known.crops.length);
}

/* ---- Views ---- */

const goLabel = () => go(nextUnanswered(0) === null ? "done" : "label");

function go(to) {
  view = to;
  if (to === "label") {
    fromOverview = false;
    const place = mine.has(current) ? nextUnanswered(current) : current;
    show(place ?? current);
  }
  draw();
  if (to === "done") $("done").focus();
  if (to === "overview") focusTile();
}

function draw() {
  const total = known.crops.length;
  const done = mine.size;
  $("progress").max = total;
  $("progress").value = done;
  document.title = `${done}/${total} · Open or closed?`;
  $("counts").textContent = `${done} of ${total} done · ${total - done} left`;
  $("to-name").textContent = me ?? "";
  $("to-name").setAttribute("aria-label", me ? `You are ${me}; change name` : "");
  $("welcome").hidden = me !== null;
  for (const name of ["label", "done", "overview"]) $(name).hidden = me === null || view !== name;
  for (const name of ["label", "overview"]) $(`to-${name}`).setAttribute("aria-pressed", view === name);
  for (const part of ["nav", ".progress"]) document.querySelector(part).hidden = me === null;
  drawCrop();
  if (view === "overview") drawGrid();
  if (view === "done") drawDone();
}

function drawDone() {
  const tally = { open: 0, closed: 0, unsure: 0 };
  for (const label of mine.values()) tally[label] += 1;
  $("done-counts").textContent = `You answered all ${mine.size} crops: ${tally.open} open, ${tally.closed} closed, ${tally.unsure} can’t tell.`;
  const waiting = outbox().length;
  $("done-saved").textContent = waiting ? `${waiting} answers are not saved yet; keep this page open.` : `Every answer is saved in ${known.answers}.`;
  $("done-command").textContent = known.go_on;
  $("done-undo").disabled = !undoable.length;
}

/* ---- Overview ---- */

let tiles = [];
let focused = 0; // place of the tile that Tab reaches

function icon(label) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#eye-${label}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function makeGrid() {
  tiles = known.crops.map((crop, place) => {
    const tile = element("button", "tile");
    tile.type = "button";
    tile.dataset.place = place;
    tile.tabIndex = -1;
    const image = document.createElement("img");
    Object.assign(image, { loading: "lazy", decoding: "async", alt: "", width: 96, height: 96, src: `/crops/${crop.image}/small.png` });
    tile.append(image, element("span", "name", crop.file), element("span", "mark"));
    return tile;
  });
  $("grid").append(...tiles);
}

function drawGrid() {
  const votes = votesByCrop();
  const belongs = {
    all: () => true,
    unanswered: (place) => !mine.has(place),
    open: (place) => mine.get(place) === "open",
    closed: (place) => mine.get(place) === "closed",
    unsure: (place) => mine.get(place) === "unsure",
    disagreement: (place) => disagree(votes[place]),
  };
  for (const button of document.querySelectorAll("[data-filter]")) {
    const test = belongs[button.dataset.filter];
    button.setAttribute("aria-pressed", button.dataset.filter === filter);
    button.querySelector("b").textContent = tiles.filter((_, place) => test(place)).length;
  }
  tiles.forEach((tile, place) => drawTile(tile, place, votes[place], belongs[filter](place)));
  $("grid").classList.toggle("disagreeing", filter === "disagreement");
  $("nothing").hidden = tiles.some((tile) => !tile.hidden);
  const voters = new Map();
  for (const said of votes) for (const [who] of said) voters.set(who, (voters.get(who) ?? 0) + 1);
  $("team").textContent = [...voters].map(([who, count]) => `${who} ${count}`).join(" · ");
  reach(tiles[focused].hidden ? tiles.findIndex((tile) => !tile.hidden) : focused);
}

function drawTile(tile, place, votes, visible) {
  const label = mine.get(place);
  const shown = filter === "disagreement" ? votes.map(([who, said]) => `${who}: ${WORDS[said]}`).join(", ") : WORDS[label] ?? "unanswered";
  tile.hidden = !visible;
  if (tile.dataset.shown === shown) return;
  tile.dataset.shown = shown;
  tile.setAttribute("aria-label", `${known.crops[place].file}, ${shown}`);
  if (label) tile.dataset.label = label;
  else delete tile.dataset.label;
  const mark = tile.lastElementChild;
  if (filter === "disagreement") {
    const list = element("ul", "who-said");
    for (const [who, said] of votes) {
      const item = document.createElement("li");
      item.dataset.label = said;
      item.append(icon(said), element("span", "", `${who}: ${WORDS[said]}`));
      list.append(item);
    }
    mark.replaceChildren(list);
  } else {
    mark.replaceChildren(...(label ? [icon(label), document.createTextNode(WORDS[label])] : []));
  }
}

function reach(place) {
  if (tiles[focused]) tiles[focused].tabIndex = -1;
  if (place < 0) return;
  focused = place;
  tiles[place].tabIndex = 0;
}

function focusTile() {
  if (!tiles[current].hidden) reach(current);
  tiles[focused].scrollIntoView({ block: "center" });
  tiles[focused].focus({ preventScroll: true });
}

function moveInGrid(event) {
  const visible = tiles.filter((tile) => !tile.hidden);
  const at = visible.indexOf(document.activeElement);
  if (at < 0) return;
  const columns = getComputedStyle($("grid")).gridTemplateColumns.split(" ").length;
  const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: at - columns, ArrowDown: at + columns, Home: 0, End: visible.length - 1 };
  const to = visible[moves[event.key]];
  if (!(event.key in moves)) return;
  event.preventDefault();
  if (!to) return;
  reach(Number(to.dataset.place));
  to.focus();
}

function openTile(place) {
  fromOverview = mine.has(place);
  view = "label";
  show(place);
  draw();
  window.scrollTo(0, 0);
}

/* ---- Files ---- */

async function bringIn(file) {
  $("import-result").textContent = $("import-error").textContent = "";
  const type = file.name.toLowerCase().endsWith(".json") ? "application/json" : "text/csv";
  try {
    const response = await request(`/api/import?name=${encodeURIComponent(file.name)}`, {
      method: "POST",
      body: await file.arrayBuffer(),
      headers: { "Content-Type": type },
      signal: AbortSignal.timeout(12 * TIMEOUT),
    });
    if (!response.ok) throw new Error(await reason(response));
    const { changed, unchanged, outdated } = await response.json();
    $("import-result").textContent = `${file.name}: ${changed} answers imported, ${unchanged} already present, ${outdated} older than the current ones.`;
    channel.postMessage("changed");
    await refresh();
  } catch (error) {
    const why = error instanceof TypeError ? "the server can’t be reached" : error.message;
    $("import-error").textContent = `${file.name} was not imported; nothing has changed: ${why}`;
  }
}

/* ---- Name ---- */

function askName() {
  me = null;
  $("name").value = localStorage.getItem("eyestate/annotator") ?? "";
  draw();
  $("name").focus();
}

function forgetName(why) {
  me = null;
  localStorage.removeItem("eyestate/annotator");
  history.replaceState(null, "", location.pathname);
  $("name-error").textContent = why;
  if (known) askName();
  else start();
}

async function setName(name) {
  me = name.trim().split(/\s+/).join(" ");
  if (!(await refresh())) return;
  $("name-error").textContent = "";
  localStorage.setItem("eyestate/annotator", me);
  const address = new URL(location.href);
  address.searchParams.set("annotator", me);
  history.replaceState(null, "", address);
  send();
  view = "label";
  goOn(0);
}

async function start() {
  const name = new URLSearchParams(location.search).get("annotator") ?? localStorage.getItem("eyestate/annotator");
  if (name) await setName(name);
  else if (await refresh()) askName();
}

/* ---- Events ---- */

const KEYS = {
  o: () => answer("open"),
  ArrowRight: () => answer("open"),
  c: () => answer("closed"),
  ArrowLeft: () => answer("closed"),
  u: () => answer("unsure"),
  "?": () => answer("unsure"),
  " ": () => answer("unsure"),
  z: undo,
  Backspace: undo,
  p: togglePixels,
  m: toggleModel,
  ArrowUp: () => step(-1),
  ArrowDown: () => step(1),
  g: () => go("overview"),
};

document.addEventListener("keydown", (event) => {
  if (!known || me === null || $("files").open || event.altKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.ctrlKey || event.metaKey) {
    if (key !== "z" || event.shiftKey) return;
    event.preventDefault();
    if (!event.repeat) undo();
    return;
  }
  if (event.target.matches("input")) return;
  if (view === "overview") {
    if (key === "g" || key === "Escape") goLabel();
    else if (key === "z" && !event.repeat) undo();
    else moveInGrid(event);
    return;
  }
  if (event.target.matches("button, a") && key === " ") return; // presses what has the focus
  const action = view === "done" && !["z", "Backspace", "g"].includes(key) ? null : KEYS[key];
  if (!action) return;
  event.preventDefault();
  if (!event.repeat || key === "ArrowUp" || key === "ArrowDown") action(); // a key held down answers once
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.answer) answer(button.dataset.answer);
  else if (button.dataset.place) openTile(Number(button.dataset.place));
  else if (button.dataset.filter) {
    filter = button.dataset.filter;
    drawGrid();
  }
  // After a click the keys belong to the crop again, so that Space answers and does not press the button once more.
  if (event.detail > 0 && view === "label") button.blur();
});

const CLICKS = {
  undo,
  "done-undo": undo,
  pixels: togglePixels,
  model: toggleModel,
  before: () => step(-1),
  after: () => step(1),
  "to-label": goLabel,
  "to-overview": () => go("overview"),
  "done-overview": () => go("overview"),
  "to-files": () => $("files").showModal(),
  "close-files": () => $("files").close(),
  "to-name": askName,
};
for (const [id, action] of Object.entries(CLICKS)) $(id).addEventListener("click", action);

$("trouble").querySelector("button").addEventListener("click", () => ($("trouble").hidden = true));
$("name-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setName($("name").value);
});
$("import").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  if (file) await bringIn(file);
  event.target.value = "";
});
channel.addEventListener("message", () => {
  changes += 1;
  if (known) refresh();
});
window.addEventListener("focus", () => known && refresh());
window.addEventListener("beforeunload", (event) => {
  if (known && outbox().length) event.preventDefault();
});

start();
