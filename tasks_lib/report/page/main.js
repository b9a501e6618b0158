// The page: figures, advice, legend, path, hosts, details; selecting a task in one view updates the others.

function figures() {
  const list = document.getElementById("figures");
  const items = [[formatTime(RECORD.elapsed), "total", ""]];
  const bytes = DATA.hosts.reduce((sum, host) => sum + host.bytes, 0);
  if (bytes) items.push([formatSize(bytes), "fetched", ""]);
  Object.keys(STATES).filter((state) => RECORD.counts[state]).forEach((state) => {
    items.push([formatCount(RECORD.counts[state]), STATES[state], state]);
  });
  items.forEach(([figure, words, state]) => list.append(
    create("li", { class: state }, create("b", { textContent: figure }), create("span", { textContent: words })),
  ));
  const begun = new Date(RECORD.started);
  document.getElementById("when").textContent = `started ${begun.toISOString().replace("T", " ").slice(0, 19)} UTC, doit-fetch ${RECORD.version}`;
}

function advice() {
  const list = document.getElementById("advice-list");
  const lines = [...DATA.advice, ...RECORD.errors];
  if (!lines.length) lines.push("No advice: no phase, host or task took most of the time.");
  lines.forEach((text) => list.append(create("li", { textContent: text })));
}

function failures(choose) {
  const failed = TASKS.filter((task) => task.outcome === "failed"), list = document.getElementById("failure-list");
  failed.slice(0, 20).forEach((task) => {
    const name = create("button", { type: "button", textContent: task.name });
    name.addEventListener("click", () => choose(task));
    list.append(create("dt", {}, name), create("dd", { textContent: task.message || "no message" }));
  });
  if (failed.length > 20) list.append(create("dd", { textContent: `and ${formatCount(failed.length - 20)} more, in the table` }));
  document.getElementById("failures").hidden = !failed.length;
}

function legend() {
  const bar = document.getElementById("spent"), list = document.getElementById("legend");
  const parts = new Map();
  Object.entries(DATA.spent).forEach(([name, ms]) => parts.set(phaseColour(name), (parts.get(phaseColour(name)) || 0) + ms));
  const shown = Object.keys(PHASES).filter((name) => parts.get(name) > 0);
  const sum = shown.reduce((all, name) => all + parts.get(name), 0) || 1;
  shown.forEach((name) => {
    const part = document.createElement("i");
    part.style.flex = String(parts.get(name) / sum);
    part.style.background = `var(--${name})`;
    part.title = `${PHASES[name]}: ${formatTime(parts.get(name))}`;
    bar.append(part);
    list.append(create("li", {}, swatch(`var(--${name})`), `${PHASES[name]} ${formatTime(parts.get(name))}`));
  });
  const meanings = shown.filter((name) => name in MEANINGS).map((name) => `${PHASES[name]}: ${MEANINGS[name]}`);
  document.getElementById("legend-help").textContent = [...meanings, "grey: between phases, such as loading modules"].join("; ");
  bar.setAttribute("aria-label", shown.map((name) => `${PHASES[name]} ${Math.round(parts.get(name) / sum * 100)} %`).join(", "));
}

function path(choose) {
  const list = document.getElementById("path-list");
  const tasks = DATA.critical.map((number) => TASKS[number]);
  const from = tasks.length ? tasks[0].start : 0; // the queue time of the first task is not part of the path
  const span = tasks.length ? Math.max(1, tasks[tasks.length - 1].end - from) : 1;
  tasks.slice(0, 200).forEach((task) => {
    const name = create("button", { type: "button", textContent: task.name });
    name.addEventListener("click", () => choose(task));
    const track = create("span", { class: "track" });
    const part = (start, end, colour) => {
      const piece = document.createElement("i");
      piece.style.left = `${(start - from) / span * 100}%`;
      piece.style.width = `${Math.max(0.15, (end - start) / span * 100)}%`;
      piece.style.background = `var(--${colour})`;
      track.append(piece);
    };
    if (task !== tasks[0]) part(task.ready, task.start, "queue");
    part(task.start, task.end, "other");
    (task.phases || []).forEach((phase) => part(phase[1], phase[2], phaseColour(phase[0])));
    list.append(create("li", {}, name, track, create("span", { class: "time", textContent: formatTime(task.took) })));
  });
  if (!tasks.length) list.append(create("li", { textContent: "No task ran." }));
}

function hosts() {
  const rows = document.getElementById("host-rows");
  DATA.hosts.forEach((host) => rows.append(create("tr", {},
    create("td", { textContent: host.name }),
    ...[formatCount(host.files), formatSize(host.bytes), formatTime(host.ms), formatCount(host.alone)].map((text) => create("td", { class: "number", textContent: text })),
  )));
  if (!DATA.hosts.length) rows.append(create("tr", {}, create("td", { colSpan: 5, textContent: "No host was contacted." })));
}

function failedSources() {
  const rows = document.getElementById("failed-rows");
  DATA.failed.forEach((host) => rows.append(create("tr", {},
    create("td", { textContent: `${host.role} ${host.name}` }),
    create("td", { class: "number", textContent: formatCount(host.files) }), create("td", { textContent: host.reason }),
  )));
  document.getElementById("failed").hidden = !DATA.failed.length;
}

function detail(task) {
  const facts = document.getElementById("detail-facts");
  const rows = [
    ["state", STATES[task.outcome] || task.outcome], ["message", task.message], ["warnings", (task.warnings || []).join("\n")],
    ["time", task.took === undefined ? "" : `${formatTime(task.took)}, from ${formatTime(task.start)} to ${formatTime(task.end)}`],
    ["queued", task.start - task.ready >= 1 ? formatTime(task.start - task.ready) : ""],
    ["worker", RECORD.workers[task.worker]],
    ["phases", (task.phases || []).map((phase) => `${PHASES[phase[0]] || phase[0]} ${formatTime(phase[2] - phase[1])}${phase[3] ? `, ${formatSize(phase[3])}` : ""}`).join("\n")],
    ["from", task.url, "code"], ["artifact", task.artifact], ["size", task.size ? `${formatSize(task.size)} (${formatCount(task.size)} bytes)` : ""],
    ["sha256", task.sha256, "code"], ["sources", (task.sources || []).join("\n"), "code"], ["defined in", task.defined],
    ["needs", names(task.needs)], ["needed by", names(task.feeds)],
  ];
  document.getElementById("detail-title").textContent = task.name;
  facts.replaceChildren(...rows.filter(([, text]) => text).flatMap(([name, text, kind]) => [
    create("dt", { textContent: name }), create("dd", { class: kind || "", textContent: text }),
  ]));
  document.getElementById("detail").hidden = false;
}

function names(numbers = []) {
  const some = numbers.slice(0, 12).map((number) => TASKS[number].name).join("\n");
  return numbers.length > 12 ? `${some}\nand ${formatCount(numbers.length - 12)} more` : some;
}

function start() {
  let timeline = null, graph = null;
  const choose = (task) => { detail(task); timeline.reveal(task); graph.focus(task); };
  const close = () => { document.getElementById("detail").hidden = true; timeline.reveal(null); };
  figures();
  advice();
  failures(choose);
  legend();
  path(choose);
  hosts();
  failedSources();
  timeline = new Timeline(choose);
  graph = new Graph(choose);
  new Table(choose);
  document.getElementById("canvas").setAttribute("aria-label",
    `Timeline of ${formatCount(TASKS.length)} tasks on ${RECORD.workers.length} workers over ${formatTime(RECORD.elapsed)}`);
  document.getElementById("detail-close").addEventListener("click", close);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });
}

start();
