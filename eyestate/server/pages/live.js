"use strict";

/* The live part of /try: a stream of frames to /v1/stream, and the curve that is drawn of its answers. */

const CURVE = 30; // seconds that the curve shows
const OPENING = 10_000; // milliseconds to wait for a stream, and for an answer

const SENTENCES = {
  unauthorized: ["The service asks for an API key.", { locked: true }],
  overloaded: ["The service is busy. Try again in a moment.", { again: true, wait: 1 }],
  going: ["The service is not ready. Try again in a moment.", { again: true, wait: 1 }],
  shut: ["The stream can’t be opened. The service may be busy, or a proxy in between may not know WebSockets.", { again: true, wait: 2 }],
  late: ["The service did not answer in time.", { again: true, wait: 1 }],
};

/* A stream, whose frames are sent one at a time. */
class Live {
  constructor(mode, key) {
    const url = new URL(`v1/stream?mode=${mode}&newest=true`, location.href);
    url.protocol = url.protocol.replace("http", "ws");
    this.mode = mode;
    this.socket = new WebSocket(url);
    this.opened = false;
    this.ended = null; // why, once it has
    this.socket.onopen = () => {
      this.opened = true;
      if (key) this.socket.send(JSON.stringify({ key }));
      this.settle(null);
    };
    this.socket.onmessage = ({ data }) => this.settle(JSON.parse(data));
    this.socket.onclose = ({ code }) => {
      const reasons = { 1001: "going", 1008: "unauthorized", 1013: "overloaded" };
      this.ended = { error: { code: reasons[code] ?? (this.opened ? "going" : "shut") } };
      this.settle(this.ended);
    };
  }

  /* What comes next, when it has been asked for. */
  settle(answer) {
    this.resolve?.(answer);
    this.resolve = null;
  }

  next(signal) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => resolve({ error: { code: "late" } }), OPENING);
      signal.addEventListener("abort", () => reject(signal.reason), { once: true });
      this.resolve = (answer) => {
        clearTimeout(timer);
        resolve(answer);
      };
    });
  }

  /* The answer to a frame; throws a Refusal where there is none, and sends nothing once it has been stopped. */
  async ask(blob, signal) {
    if (this.socket.readyState === WebSocket.CONNECTING) this.judge(await this.next(signal));
    signal.throwIfAborted();
    if (this.socket.readyState !== WebSocket.OPEN) this.judge(this.ended ?? { error: { code: "going" } });
    const answer = this.next(signal);
    this.socket.send(blob);
    return this.judge(await answer);
  }

  judge(answer) {
    if (!answer?.error) return answer;
    const { code, message } = answer.error;
    const [sentence, options] = SENTENCES[code] ?? [`The picture can’t be used: ${message}.`, { again: true, wait: 1 }];
    throw new Refusal(sentence, options);
  }

  close() {
    this.socket.onclose = null;
    this.socket.close();
  }
}

/* The scores of the last seconds as a line, above the times in which the eyes were closed; blinks are marked. */
const curve = {
  points: [], // {time, score, state}, the newest last
  events: [],

  clear() {
    this.points = [];
    this.events = [];
    $("live").hidden = true;
  },

  add({ time, score, state, events, blinks, blink_rate: rate, perclos, observed }) {
    this.points.push({ time, score, state });
    this.points = this.points.filter((point) => point.time > time - CURVE);
    this.events = events;
    $("live").hidden = false;
    $("blinks").textContent = blinks;
    $("rate").textContent = rate === null || observed < 10 ? "–" : rate.toFixed(1);
    $("perclos").textContent = perclos === null ? "–" : `${(100 * perclos).toFixed(1)} %`;
    $("now").textContent = state;
    $("now").dataset.state = state;
    this.draw(time);
  },

  draw(now) {
    const canvas = $("curve");
    const scale = window.devicePixelRatio;
    const { clientWidth: width, clientHeight: height } = canvas;
    canvas.width = width * scale;
    canvas.height = height * scale;
    const context = canvas.getContext("2d");
    context.scale(scale, scale);
    const colour = (name) => getComputedStyle(canvas).getPropertyValue(name);
    const x = (time) => width * (1 - (now - time) / CURVE);
    const y = (score) => 6 + (height - 12) * (1 - score);
    context.fillStyle = colour("--line");
    for (const event of this.events) {
      const [from, to] = [x(event.start), x(event.end ?? now)];
      context.fillRect(from, 0, Math.max(to - from, 2), height);
      if (event.kind !== "blink") continue;
      context.beginPath();
      context.arc((from + to) / 2, height - 6, 3, 0, 2 * Math.PI);
      context.save();
      context.fillStyle = colour("--closed");
      context.fill();
      context.restore();
    }
    context.strokeStyle = colour("--text");
    context.lineWidth = 1.5;
    context.lineJoin = "round";
    context.beginPath();
    let drawing = false;
    for (const { time, score } of this.points) {
      if (score !== null) context[drawing ? "lineTo" : "moveTo"](x(time), y(score));
      drawing = score !== null;
    }
    context.stroke();
  },
};
