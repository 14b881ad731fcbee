"use strict";

/* The page /try. A picture is drawn on a canvas, shrunk if it is large, sent to /v1/faces or, as one eye, to /v1/score,
   and what comes back is laid over it and told in a table. The webcam's frames go through a stream (live.js). Boxes are placed in per cent of the picture that was sent, so
   they fit whatever size it is shown at. Nothing is kept: neither pictures nor the API key outlive the page. */

const LONGEST = 1600; // pixels of a picture as it is sent
const LONGEST_FRAME = 640; // pixels of a frame of the webcam as it is sent
const LONGEST_CROP = 96; // pixels up to which a picture is taken for one eye
const MAX_BYTES = 20 * 2 ** 20; // the service's limit for an image
const SENT_AS_THEY_ARE = new Set(["image/jpeg", "image/png", "image/webp", "image/bmp"]); // others are drawn and sent as JPEG
const FRAME = 50; // milliseconds from one frame to the next, at least
const TIMEOUT = 65_000; // milliseconds
const QUIET = 3_000; // milliseconds between what a screen reader is told of the webcam
const STATES = ["open", "closed", "uncertain", "hidden"];
const NO_PICTURE = "This is not a picture that the service can read. It takes JPEG, PNG, WebP and BMP.";

const $ = (id) => document.getElementById(id);
const shown = $("picture-shown");
const video = $("video");

let picture = null; // {blob, canvas, from: {width, height}}; the canvas is null where the browser cannot decode it
let camera = null; // the webcam's stream while it runs
let asking = new AbortController(); // of the request on its way
let key = "";

/* ---- The service ---- */

class Refusal extends Error {
  /* A sentence for people; `again`: the same may succeed later, `wait`: in so many seconds, `locked`: with a key. */
  constructor(sentence, { again = false, wait = 0, locked = false } = {}) {
    super(sentence);
    Object.assign(this, { again, wait, locked });
  }
}

async function post(path, blob, signal) {
  const headers = { "Content-Type": "application/octet-stream", ...(key && { Authorization: `Bearer ${key}` }) };
  let response;
  let answer;
  try {
    const limits = AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT)]);
    response = await fetch(path, { method: "POST", body: blob, headers, signal: limits });
    answer = await response.json();
  } catch (error) {
    if (signal.aborted) throw error;
    if (error.name === "TimeoutError") throw new Refusal("The service did not answer in time.", { again: true });
    if (!response) throw new Refusal("The service can’t be reached. Check the connection.", { again: true });
    if (response.ok) throw new Refusal("The answer can’t be read: it is not the service’s.", { again: true });
  }
  if (!response.ok) throw refusal(response, answer?.error);
  return answer;
}

function refusal(response, error) {
  const wait = Number(response.headers.get("Retry-After")) || 0;
  const later = wait ? `in ${wait} ${wait === 1 ? "second" : "seconds"}` : "in a moment";
  const reason = error?.message ? `: ${error.message}.` : ".";
  switch (response.status) {
    case 401:
      return new Refusal(key ? "The service does not know this API key." : "The service asks for an API key.", { locked: true });
    case 413:
      return new Refusal(`The picture is too large for the service${reason}`);
    case 415:
      return new Refusal(NO_PICTURE);
    case 429:
      return new Refusal(`The service is busy. Try again ${later}.`, { again: true, wait });
    case 501:
      return new Refusal("This service finds no faces. Choose “One eye” and give it a crop.");
    case 502:
    case 503:
      return new Refusal(`The service is not ready. Try again ${later}.`, { again: true, wait });
    case 408:
    case 504:
      return new Refusal("The service did not answer in time.", { again: true });
    default:
      return response.status < 500
        ? new Refusal(`The picture can’t be used${reason}`)
        : new Refusal("The service failed on this picture.", { again: true });
  }
}

const wanted = () => document.querySelector("input[name=kind]:checked").value;

/* What the service says of a picture, a photo and a crop in one form: groups of eyes with boxes, all in pixels. An eye
   that is beyond the photo's edge has only a name. */
async function judged({ blob, canvas }, signal) {
  const kind = wanted();
  const began = performance.now();
  const took = () => performance.now() - began;
  const tiny = canvas && Math.max(canvas.width, canvas.height) <= LONGEST_CROP;
  if (kind === "photo" || (kind === "auto" && !tiny)) {
    const { faces, image, model } = await post("v1/faces", blob, signal);
    return { image, model, took: took(), groups: faces.map(group) };
  }
  const { score, state, model } = await post("v1/score", blob, signal);
  const image = { width: canvas?.width ?? 1, height: canvas?.height ?? 1 };
  return { image, model, took: took(), groups: [oneEye(image, score, state)] };
}

function oneEye(image, score, state) {
  const whole = { left: 0, top: 0, ...image };
  return { name: "The whole picture", box: whole, eyes: [{ name: "Eye", box: whole, score, state }] };
}

/* The same of an answer of a stream. */
function followed({ face, image, score, state }, canvas, took) {
  if (face === undefined) return { image: canvas, took, groups: [oneEye(canvas, score, state)] };
  return { image, took, groups: face ? [group(face, 0)] : [] };
}

function group({ box, confidence, eyes }, place) {
  const named = [["Right", eyes.right], ["Left", eyes.left]]; // as they stand in a photo, from left to right
  return {
    name: `Face ${place + 1}`,
    number: place + 1,
    confidence,
    box,
    eyes: named.map(([name, eye]) => ({ name, ...eye })),
  };
}

/* ---- Pictures ---- */

async function take(file) {
  stopCamera();
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  clear();
  picture = null;
  if (file.size === 0) return refuse(new Refusal("The file is empty."));
  const taken = await drawn(file);
  if (signal.aborted) return; // another picture or the webcam came in between
  if (!taken.canvas && file.size > MAX_BYTES) return refuse(new Refusal(NO_PICTURE));
  picture = taken;
  await look();
}

async function drawn(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return { blob: file, canvas: null }; // the service says what is wrong with it, or can read it
  }
  const from = { width: bitmap.width, height: bitmap.height };
  const canvas = drawing(document.createElement("canvas"), bitmap, from, LONGEST);
  bitmap.close();
  const fits = canvas.width === from.width && file.size <= MAX_BYTES && SENT_AS_THEY_ARE.has(file.type);
  return { blob: fits ? file : await jpeg(canvas), canvas, from };
}

function drawing(canvas, source, { width, height }, longest) {
  const scale = Math.min(1, longest / Math.max(width, height));
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillStyle = "rgb(128 128 128)"; // what the service lays transparent pixels on
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  return canvas;
}

const jpeg = (canvas) => new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));

async function look() {
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  clear();
  if (picture.canvas) show(picture.canvas);
  $("result").setAttribute("aria-busy", "true");
  $("summary").textContent = "Looking …";
  $("result").hidden = false;
  try {
    const answer = await judged(picture, signal);
    if (!signal.aborted) {
      tell(answer, picture);
      $("as-eye").hidden = answer.groups.length > 0;
      $("summary").scrollIntoView({ block: "nearest" }); // on a phone it is below the picture
    }
  } catch (error) {
    if (signal.aborted) return;
    $("summary").textContent = "";
    $("result").hidden = !picture.canvas;
    refuse(error);
  }
  if (!signal.aborted) $("result").setAttribute("aria-busy", "false");
}

/* ---- The webcam ---- */

async function startCamera() {
  clearTrouble();
  if (!navigator.mediaDevices?.getUserMedia) {
    const why = window.isSecureContext
      ? "This browser has no webcam for pages."
      : "Browsers lend the webcam only to pages that come over HTTPS or from this computer (localhost).";
    return refuse(new Refusal(why));
  }
  $("camera").disabled = true;
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user", width: { ideal: LONGEST_FRAME } } });
    video.srcObject = stream;
    await video.play();
  } catch (error) {
    for (const track of stream?.getTracks() ?? []) track.stop();
    return refuse(new Refusal(cameraTrouble(error.name)));
  } finally {
    $("camera").disabled = false;
  }
  asking.abort();
  picture = null;
  camera = stream;
  stream.getVideoTracks()[0].onended = () => {
    if (camera !== stream) return;
    stopCamera();
    refuse(new Refusal("The webcam was taken away."));
  };
  clear();
  $("camera").textContent = "Stop the webcam";
  $("stage").classList.add("mirrored");
  shape({ width: video.videoWidth, height: video.videoHeight });
  shown.hidden = true;
  video.hidden = false;
  $("stage").hidden = false;
  $("summary").textContent = "Looking …";
  $("result").hidden = false;
  $("stage").scrollIntoView({ block: "nearest" });
  watch(stream);
}

function cameraTrouble(name) {
  if (name === "NotAllowedError" || name === "SecurityError") return "The webcam is not allowed. Allow it for this page in the browser’s settings.";
  if (name === "NotFoundError" || name === "OverconstrainedError") return "There is no webcam.";
  return "The webcam can’t be started. Does another program use it?";
}

/* One frame after the other, each sent when the one before is answered. */
async function watch(stream) {
  const canvas = document.createElement("canvas");
  let live = null;
  while (camera === stream) {
    const due = performance.now() + FRAME;
    let pause = 0;
    if (!document.hidden && video.videoWidth) {
      asking = new AbortController();
      const { signal } = asking;
      try {
        live = streaming(live);
        const from = { width: video.videoWidth, height: video.videoHeight };
        const frame = { blob: await jpeg(drawing(canvas, video, from, LONGEST_FRAME)), canvas, from };
        const began = performance.now();
        const answer = await live.ask(frame.blob, signal);
        if (signal.aborted) break;
        clearTrouble();
        drawing(shown, canvas, canvas, LONGEST_FRAME);
        shape(canvas);
        tell(followed(answer, canvas, performance.now() - began), frame);
        curve.add(answer);
      } catch (error) {
        if (signal.aborted) break;
        if (!error.again) stopCamera();
        refuse(error);
        $("again").hidden = true; // it goes on by itself
        pause = 1_000 * Math.max(error.wait, 1);
      }
    }
    await new Promise((resolve) => setTimeout(resolve, Math.max(pause, due - performance.now(), 0)));
  }
  live?.close();
}

/* A stream of what is wanted: the one there is, unless it has ended or is of something else. */
function streaming(live) {
  const mode = wanted() === "crop" ? "crop" : "face";
  if (live?.mode === mode && live.socket.readyState <= WebSocket.OPEN) return live;
  live?.close();
  curve.clear();
  return new Live(mode, key);
}

/* The last frame that was answered stays, with its boxes. */
function stopCamera() {
  if (!camera) return;
  asking.abort();
  for (const track of camera.getTracks()) track.stop();
  camera = null;
  video.srcObject = null;
  video.hidden = true;
  shown.hidden = false;
  $("result").hidden = $("facts").textContent === "";
  $("camera").textContent = "Start the webcam";
}

/* ---- What is seen ---- */

function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

function icon(state) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS("http://www.w3.org/2000/svg", "use"));
  svg.firstChild.setAttribute("href", `#eye-${state}`);
  return svg;
}

const seen = (eye) => eye.box !== undefined;
const digits = (score) => score?.toFixed(3) ?? "–";

function clear() {
  clearTrouble();
  $("boxes").replaceChildren();
  for (const body of [...$("eyes").tBodies]) body.remove();
  $("eyes").hidden = true;
  $("as-eye").hidden = true;
  $("stage").hidden = true;
  $("result").hidden = true;
  curve.clear();
  for (const id of ["summary", "facts", "said"]) $(id).textContent = "";
}

function show(canvas) {
  $("stage").classList.remove("mirrored");
  drawing(shown, canvas, canvas, LONGEST);
  shape(canvas);
  $("stage").hidden = false;
}

function shape({ width, height }) {
  $("stage").style.setProperty("--ratio", width / height);
  $("stage").classList.toggle("small", Math.max(width, height) <= LONGEST_CROP);
}

function tell(answer, { canvas, from }) {
  const mirrored = $("stage").classList.contains("mirrored");
  $("boxes").replaceChildren(...(canvas ? answer.groups.map((face) => marked(face, answer.image, mirrored)) : []));
  keepInside();
  for (const body of [...$("eyes").tBodies]) body.remove();
  $("eyes").append(...answer.groups.map((face) => rows(face, answer.image, canvas)));
  $("eyes").hidden = answer.groups.length === 0;
  $("summary").textContent = summary(answer);
  $("facts").textContent = facts(answer, canvas, from);
  announce($("summary").textContent);
}

function marked(face, image, mirrored) {
  const frame = make("div", face.number ? "face framed" : "face whole");
  place(frame, face.box, { left: 0, top: 0, ...image }, mirrored);
  if (face.number) frame.append(make("span", "number", face.number));
  for (const eye of face.eyes.filter(seen)) {
    const mark = make("div", "eye");
    mark.dataset.state = eye.state;
    place(mark, eye.box, face.box, mirrored);
    const outwards = (eye.name === "Right") === mirrored ? "rightwards" : "leftwards"; // labels grow away from each other
    const label = make("span", `label ${outwards}`);
    label.dataset.state = eye.state;
    label.style.setProperty("--left", mark.style.left);
    label.style.setProperty("--width", mark.style.width);
    label.style.setProperty("--below", `calc(${mark.style.top} + ${mark.style.height})`);
    label.append(icon(eye.state), make("span", "word", eye.state), make("span", "score", eye.score?.toFixed(2) ?? ""));
    frame.append(mark, label);
  }
  return frame;
}

/* Position a mark for `box` in the element that stands for `within`, both in pixels of the picture. */
function place(mark, box, within, mirrored) {
  const left = mirrored ? within.left + within.width - box.left - box.width : box.left - within.left;
  mark.style.left = `${(100 * left) / within.width}%`;
  mark.style.top = `${(100 * (box.top - within.top)) / within.height}%`;
  mark.style.width = `${(100 * box.width) / within.width}%`;
  mark.style.height = `${(100 * box.height) / within.height}%`;
}

/* Labels that the picture's edge would cut are moved in. */
function keepInside() {
  const stage = $("stage").getBoundingClientRect();
  const labels = [...$("boxes").querySelectorAll(".label, .number")];
  for (const label of labels) label.style.translate = "";
  const moves = labels.map((label) => {
    const { left, right, top, bottom } = label.getBoundingClientRect();
    const x = Math.max(0, stage.left - left) - Math.max(0, right - stage.right);
    const y = Math.max(0, stage.top - top) - Math.max(0, bottom - stage.bottom);
    return `${x}px ${y}px`;
  });
  labels.forEach((label, at) => {
    label.style.translate = moves[at];
  });
}

function rows(face, image, canvas) {
  const body = make("tbody");
  const title = make("th", "", face.name);
  title.colSpan = 3;
  title.scope = "rowgroup";
  if (face.confidence !== undefined) title.append(make("span", "", `, confidence ${digits(face.confidence)}`));
  body.insertRow().append(title);
  for (const eye of face.eyes) {
    const row = body.insertRow();
    const name = make("th");
    name.scope = "row";
    const cut = make("div", "cut");
    if (canvas && seen(eye)) cut.append(thumbnail(canvas, eye.box, image));
    cut.append(make("span", "", eye.name));
    name.append(cut);
    row.append(name);
    if (!seen(eye)) {
      const beyond = row.insertCell();
      beyond.colSpan = 2;
      beyond.textContent = "not in the picture";
      continue;
    }
    row.dataset.state = eye.state;
    const state = make("div", "state");
    state.append(icon(eye.state), make("span", "", eye.state));
    row.insertCell().append(state);
    row.insertCell().append(digits(eye.score));
  }
  return body;
}

function thumbnail(canvas, box, image) {
  const side = 88; // twice its size on the page, for dense screens
  const small = make("canvas");
  small.setAttribute("aria-hidden", "true");
  small.width = small.height = side;
  const [x, y] = [canvas.width / image.width, canvas.height / image.height];
  const scale = side / Math.max(box.width * x, box.height * y);
  const [width, height] = [box.width * x * scale, box.height * y * scale];
  const context = small.getContext("2d");
  context.drawImage(canvas, box.left * x, box.top * y, box.width * x, box.height * y, (side - width) / 2, (side - height) / 2, width, height);
  return small;
}

function summary({ groups }) {
  if (groups.length === 0) return "No face found.";
  const eyes = groups.flatMap((face) => face.eyes.filter(seen));
  if (!groups[0].number) return `The eye is ${eyes[0].state}.`;
  const counts = STATES.map((state) => [eyes.filter((eye) => eye.state === state).length, state])
    .filter(([count]) => count > 0)
    .map(([count, state], at) => `${count} ${at === 0 ? (count === 1 ? "eye " : "eyes ") : ""}${state}`);
  return `${groups.length} ${groups.length === 1 ? "face" : "faces"}: ${counts.join(", ") || "no eye in the picture"}.`;
}

function facts({ model, took }, canvas, from) {
  const size = ({ width, height }) => `${width} × ${height}`;
  const parts = [`answered in ${Math.round(took).toLocaleString("en")} ms`];
  if (model) parts.unshift(`Model ${model.name} ${model.version}`);
  if (!canvas) parts.push("the browser can’t show this picture");
  else if (canvas.width === from.width) parts.push(`${size(from)} pixels`);
  else parts.push(`${size(from)} pixels, sent as ${size(canvas)}`);
  return parts.join(" · ");
}

/* Tell a screen reader; of the webcam only what changes, and not without end. */
let announced = 0;

function announce(text) {
  if (camera && (text === $("said").textContent || performance.now() - announced < QUIET)) return;
  announced = performance.now();
  $("said").textContent = text;
}

function refuse(error) {
  if (!(error instanceof Refusal)) throw error;
  $("trouble").textContent = error.message;
  $("again").hidden = !error.again;
  if (error.locked) {
    $("key-box").open = true;
    $("key").focus();
  }
}

function clearTrouble() {
  $("trouble").textContent = "";
  $("again").hidden = true;
}

/* ---- What is done ---- */

function choose(files) {
  if (files.length) take(files[0]);
  else refuse(new Refusal("There was no picture in it."));
}

$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  $("file").value = ""; // so that the same file can be chosen again
  if (file) take(file);
});

$("camera").addEventListener("click", () => (camera ? stopCamera() : startCamera()));
$("again").addEventListener("click", () => picture && look());

$("as-eye").addEventListener("click", () => {
  document.querySelector("input[name=kind][value=crop]").checked = true;
  if (picture) look();
});

$("sample").addEventListener("click", async (event) => {
  event.preventDefault();
  try {
    const response = await fetch($("sample").href);
    if (!response.ok) throw new TypeError();
    document.querySelector("input[name=kind][value=auto]").checked = true;
    await take(await response.blob());
  } catch {
    refuse(new Refusal("The sample can’t be loaded. Check the connection."));
  }
});

for (const radio of document.querySelectorAll("input[name=kind]")) {
  radio.addEventListener("change", () => picture && look());
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const typed = $("key").value.trim();
  if (!/^[\x21-\x7e]*$/.test(typed)) return refuse(new Refusal("An API key has only letters, digits and signs of ASCII."));
  key = typed;
  clearTrouble();
  if (picture) look();
});

document.addEventListener("paste", (event) => {
  if (event.target === $("key")) return;
  event.preventDefault();
  choose(event.clipboardData.files);
});

/* A picture may be dropped anywhere: beside the zone, the browser would leave the page to show it. */
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  choose(event.dataTransfer.files);
});

new ResizeObserver(keepInside).observe($("stage"));
