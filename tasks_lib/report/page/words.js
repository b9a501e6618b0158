"use strict";
// The data of the page, and the format of sizes, times, states and colours. External text is only set as `textContent`.

const DATA = JSON.parse(document.getElementById("data").textContent);
const RECORD = DATA.record;
const TASKS = RECORD.tasks;
const PHASES = {
  queue: "queued", wait: "waiting", connect: "connecting", "first-byte": "first byte", body: "body",
  verify: "verifying", signature: "signature", repack: "repacking", extract: "extracting", place: "placing",
  run: "running", other: "other",
};
const MEANINGS = {
  queue: "for a slot at its host", wait: "for another process, or before a retry", "first-byte": "connected, until the server answers",
  place: "files into the directory of a toolchain", run: "the command of a toolchain",
};
const STATES = {
  failed: "failed", stopped: "stopped", fetched: "fetched", adopted: "from the cache", made: "made", skipped: "skipped",
  "up-to-date": "up to date", ignored: "ignored", "not-run": "not run",
};

function tenths(number) { return (Math.floor(number * 10 + 0.5) / 10).toFixed(1); }

// Same format as tasks_lib/units.py, except that times below one second are in milliseconds, since phases are short.
function formatSize(bytes) {
  if (!(bytes >= 0)) return "";
  if (bytes < 1024) return `${bytes.toFixed(0)} B`;
  bytes /= 1024;
  let unit = 0;
  while (bytes >= 999.95 && unit < 3) { bytes /= 1024; unit += 1; }
  return `${tenths(bytes)} ${["KiB", "MiB", "GiB", "TiB"][unit]}`;
}

function formatTime(ms) {
  if (ms === undefined) return "";
  if (ms < 1000) return `${ms < 10 ? ms.toFixed(1) : ms.toFixed(0)} ms`;
  const s = ms / 1000;
  if (s < 59.95) return `${tenths(s)} s`;
  const minutes = Math.floor(Math.floor(s + 0.5) / 60);
  return minutes < 60 ? `${minutes} min ${String(Math.floor(s + 0.5) % 60).padStart(2, "0")} s`
    : `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

function formatCount(number) { return number.toLocaleString("en"); }

function hostOf(url) {
  try { return new URL(url).host || "files"; } catch { return ""; }
}

// Create an element; `options` are properties, except `class`, `role` and names with a dash, which are attributes.
function create(tag, options = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name.includes("-") || name === "class" || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

function swatch(colour) {
  const mark = create("i", { class: "swatch" });
  mark.style.background = colour;
  return mark;
}

function stateOf(task) {
  const dot = document.createElement("i");
  dot.style.background = `var(--${task.outcome in STATES ? task.outcome : "other"})`;
  return create("span", { class: "state" }, dot, STATES[task.outcome] || task.outcome);
}

function phaseColour(name) { return name in PHASES ? name : "other"; }

// Derived properties of each task, computed once.
TASKS.forEach((task, number) => {
  task.number = number;
  task.kind = task.name.includes(":") ? task.name.slice(0, task.name.indexOf(":")) : "other";
  task.took = "end" in task ? task.end - task.start : undefined;
  const bodies = (task.phases || []).filter((phase) => phase[0] === "body" && phase.length > 4);
  const last = bodies[bodies.length - 1];
  task.host = last ? hostOf(last[4]) : "";
  task.url = last ? last[4] : "";
  task.rate = last && last[2] > last[1] ? last[3] / (last[2] - last[1]) * 1000 : undefined;
  task.feeds = [];
  task.text = [task.name, task.artifact, task.host, STATES[task.outcome], task.sha256, task.message, ...(task.sources || [])]
    .join("\n").toLowerCase();
});
TASKS.forEach((task) => (task.needs || []).forEach((number) => TASKS[number].feeds.push(task.number)));
const CRITICAL = new Set(DATA.critical);
