// The graph: layered, with sinks on the right. Draw the whole graph if it is small, else the surroundings of one task.

const MOST = 140;
const NODE = { width: 208, height: 30, across: 64, down: 10 };

class Graph {
  constructor(choose) {
    this.choose = choose;
    this.box = document.getElementById("graph-box");
    this.groups();
    this.focus(this.start());
  }

  start() {
    const failed = TASKS.find((task) => task.outcome === "failed");
    return failed || TASKS[DATA.critical[DATA.critical.length - 1]] || TASKS[0];
  }

  groups() {
    const box = document.getElementById("groups");
    const kinds = new Map();
    TASKS.forEach((task) => {
      if (!kinds.has(task.kind)) kinds.set(task.kind, new Map());
      const states = kinds.get(task.kind);
      states.set(task.outcome, (states.get(task.outcome) || 0) + 1);
    });
    [...kinds].sort().forEach(([kind, states]) => {
      const track = create("span", { class: "track" });
      const labels = [];
      Object.keys(STATES).filter((state) => states.has(state)).forEach((state) => {
        const part = document.createElement("i");
        part.style.flex = String(states.get(state));
        part.style.background = `var(--${state})`;
        part.title = `${formatCount(states.get(state))} ${STATES[state]}`;
        labels.push(part.title);
        track.append(part);
      });
      track.setAttribute("role", "img");
      track.setAttribute("aria-label", `${kind}: ${labels.join(", ")}`);
      box.append(create("div", {}, create("span", { textContent: kind }), track));
    });
  }

  focus(task) {
    if (!task) return;
    const near = TASKS.length <= MOST ? TASKS.map((one) => one.number) : this.around(task);
    const note = document.getElementById("graph-note");
    note.textContent = near.length === TASKS.length ? `${formatCount(TASKS.length)} tasks; dependencies are to the left of the tasks that need them`
      : `${formatCount(near.length)} of ${formatCount(TASKS.length)} tasks: those around ${task.name}; select another task in the table`;
    this.draw(near, task);
  }

  // The dependencies and dependents of a task, breadth first, up to a limit.
  around(task) {
    const found = new Set([task.number]);
    for (const direction of ["needs", "feeds"]) {
      const queue = [task.number];
      const limit = direction === "needs" ? MOST * 0.7 : MOST;
      while (queue.length && found.size < limit) {
        for (const next of TASKS[queue.shift()][direction] || []) {
          if (found.size >= limit) break;
          if (!found.has(next)) { found.add(next); queue.push(next); }
        }
      }
    }
    return [...found];
  }

  layers(near) {
    const here = new Set(near), depth = new Map();
    const deep = (number) => {
      if (depth.has(number)) return depth.get(number);
      depth.set(number, 0); // stops at a cycle, although doit rejects them
      const below = (TASKS[number].needs || []).filter((one) => here.has(one)).map((one) => deep(one) + 1);
      depth.set(number, Math.max(0, ...below));
      return depth.get(number);
    };
    const layers = [];
    near.forEach((number) => { const at = deep(number); (layers[at] = layers[at] || []).push(number); });
    const place = new Map();
    const put = (layer) => layer.forEach((number, index) => place.set(number, index));
    layers.forEach(put);
    for (let pass = 0; pass < 4; pass += 1) {
      const direction = pass % 2 ? "feeds" : "needs";
      (pass % 2 ? [...layers].reverse() : layers).forEach((layer) => {
        const centre = new Map(layer.map((number) => {
          const others = (TASKS[number][direction] || []).filter((one) => here.has(one)).map((one) => place.get(one));
          return [number, others.length ? others.reduce((sum, one) => sum + one, 0) / others.length : place.get(number)];
        }));
        layer.sort((one, other) => centre.get(one) - centre.get(other) || one - other);
        put(layer);
      });
    }
    return layers;
  }

  draw(near, task) {
    const layers = this.layers(near), spot = new Map();
    const tallest = Math.max(...layers.map((layer) => layer.length));
    layers.forEach((layer, column) => layer.forEach((number, row) => spot.set(number, [
      14 + column * (NODE.width + NODE.across),
      14 + (row + (tallest - layer.length) / 2) * (NODE.height + NODE.down),
    ])));
    const svg = this.svg("svg", {
      width: 28 + layers.length * (NODE.width + NODE.across) - NODE.across,
      height: 28 + tallest * (NODE.height + NODE.down) - NODE.down,
    });
    near.forEach((number) => (TASKS[number].needs || []).filter((one) => spot.has(one)).forEach((one) => {
      const [x1, y1] = spot.get(one), [x2, y2] = spot.get(number);
      const from = x1 + NODE.width, half = NODE.height / 2, bend = NODE.across / 2;
      const on = CRITICAL.has(one) && CRITICAL.has(number) ? " on" : "";
      svg.append(this.svg("path", {
        class: `edge${on}`, d: `M${from} ${y1 + half}C${from + bend} ${y1 + half} ${x2 - bend} ${y2 + half} ${x2} ${y2 + half}`,
      }));
    }));
    near.forEach((number) => svg.append(this.node(TASKS[number], spot.get(number), task)));
    this.box.replaceChildren(svg);
    const [x, y] = spot.get(task.number);
    if (near.length < TASKS.length) this.box.scrollTo(x - this.box.clientWidth / 2 + NODE.width / 2, y - this.box.clientHeight / 2);
  }

  node(task, [x, y], chosen) {
    const marks = `${CRITICAL.has(task.number) ? " on" : ""}${task === chosen ? " at" : ""}`;
    const node = this.svg("g", { class: `node${marks}`, transform: `translate(${x} ${y})`, tabindex: 0, role: "button" });
    const title = this.svg("title", {});
    title.textContent = `${task.name}: ${STATES[task.outcome] || task.outcome}`;
    const dot = this.svg("circle", { cx: 14, cy: NODE.height / 2, r: 5 });
    dot.style.fill = `var(--${task.outcome in STATES ? task.outcome : "other"})`;
    const label = this.svg("text", { x: 26, y: NODE.height / 2 + 4 });
    label.textContent = task.name.length > 27 ? `${task.name.slice(0, 26)}…` : task.name;
    node.append(title, this.svg("rect", { width: NODE.width, height: NODE.height, rx: 7 }), dot, label);
    node.addEventListener("click", () => this.choose(task));
    node.addEventListener("keydown", (event) => { if (event.key === "Enter") this.choose(task); });
    return node;
  }

  svg(tag, attributes) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  }
}
