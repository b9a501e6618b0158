// The timeline: one row per worker on a canvas; only visible parts are drawn.

const LANE = 24;
const AXIS = 26;
const GUTTER = 118;

class Timeline {
  constructor(choose) {
    this.choose = choose;
    this.canvas = document.getElementById("canvas");
    this.tip = document.getElementById("tip");
    this.end = TASKS.reduce((end, task) => Math.max(end, task.end || 0), Math.max(1, RECORD.elapsed));
    this.lanes = RECORD.workers.map(() => []);
    TASKS.forEach((task) => { if (task.worker >= 0) this.lanes[task.worker].push(task); });
    this.lanes.forEach((lane) => lane.sort((one, other) => one.start - other.start));
    this.view = [0, this.end];
    this.chosen = null;
    this.pathOnly = false;
    this.listen();
    this.colours();
    this.resize();
  }

  listen() {
    const canvas = this.canvas;
    new ResizeObserver(() => this.resize()).observe(canvas.parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { this.colours(); this.draw(); });
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      this.zoom(Math.exp(event.deltaY / 300), this.timeAt(event.offsetX));
    }, { passive: false });
    let drag = null;
    canvas.addEventListener("pointerdown", (event) => { drag = { x: event.offsetX, view: [...this.view], moved: false }; canvas.setPointerCapture(event.pointerId); });
    canvas.addEventListener("pointermove", (event) => {
      if (!drag) { this.hover(event); return; }
      const by = (drag.x - event.offsetX) / this.width * (drag.view[1] - drag.view[0]);
      if (Math.abs(drag.x - event.offsetX) > 3) drag.moved = true;
      if (drag.moved) this.show(drag.view[0] + by, drag.view[1] + by);
    });
    canvas.addEventListener("pointerup", (event) => {
      if (drag && !drag.moved) { const hit = this.hit(event.offsetX, event.offsetY); if (hit) this.choose(hit); }
      drag = null;
    });
    canvas.addEventListener("pointerleave", () => { this.tip.hidden = true; });
    canvas.addEventListener("keydown", (event) => {
      const span = this.view[1] - this.view[0];
      const keys = {
        "+": () => this.zoom(0.6), "=": () => this.zoom(0.6), "-": () => this.zoom(1.6), 0: () => this.show(0, this.end),
        ArrowLeft: () => this.show(this.view[0] - span / 6, this.view[1] - span / 6),
        ArrowRight: () => this.show(this.view[0] + span / 6, this.view[1] + span / 6),
      };
      if (event.key in keys && !event.ctrlKey && !event.metaKey) { event.preventDefault(); keys[event.key](); }
    });
    document.getElementById("zoom-in").addEventListener("click", () => this.zoom(0.6));
    document.getElementById("zoom-out").addEventListener("click", () => this.zoom(1.6));
    document.getElementById("zoom-all").addEventListener("click", () => this.show(0, this.end));
    const path = document.getElementById("only-path");
    path.addEventListener("click", () => {
      this.pathOnly = !this.pathOnly;
      path.setAttribute("aria-pressed", String(this.pathOnly));
      this.draw();
    });
  }

  colours() {
    const style = getComputedStyle(document.documentElement);
    this.colour = (name) => this.known[name] || (this.known[name] = style.getPropertyValue(`--${name}`).trim());
    this.known = {};
    this.font = getComputedStyle(document.body).fontFamily;
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    const width = this.canvas.parentElement.clientWidth;
    const height = AXIS + Math.max(1, this.lanes.length) * LANE + 4;
    if (!width) return;
    this.canvas.width = width * ratio;
    this.canvas.height = height * ratio;
    this.canvas.style.height = `${height}px`;
    this.width = width - GUTTER;
    this.height = height;
    this.pen = this.canvas.getContext("2d");
    this.pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.draw();
  }

  x(ms) { return GUTTER + (ms - this.view[0]) / (this.view[1] - this.view[0]) * this.width; }
  timeAt(x) { return this.view[0] + (x - GUTTER) / this.width * (this.view[1] - this.view[0]); }

  zoom(factor, around = (this.view[0] + this.view[1]) / 2) {
    const span = Math.min(this.end, Math.max(this.end / 1e5, 1, (this.view[1] - this.view[0]) * factor));
    const share = (around - this.view[0]) / (this.view[1] - this.view[0]);
    this.show(around - span * share, around + span * (1 - share));
  }

  show(from, to) {
    const span = Math.min(to - from, this.end);
    const start = Math.min(Math.max(0, from), this.end - span);
    this.view = [start, start + span];
    this.draw();
  }

  reveal(task) {
    this.chosen = task;
    if (task && "start" in task && (task.end < this.view[0] || task.start > this.view[1])) {
      const span = this.view[1] - this.view[0];
      this.show(task.start - span / 3, task.start + span * 2 / 3);
    } else this.draw();
  }

  draw() {
    if (this.waiting || !this.pen) return;
    this.waiting = requestAnimationFrame(() => { this.waiting = 0; this.paint(); });
  }

  paint() {
    const pen = this.pen;
    pen.clearRect(0, 0, this.width + GUTTER, this.height);
    this.axis(pen);
    pen.font = `12px ${this.font}`;
    this.lanes.forEach((lane, number) => this.lane(pen, lane, AXIS + number * LANE, RECORD.workers[number]));
  }

  axis(pen) {
    const span = this.view[1] - this.view[0];
    const rough = span / Math.max(2, this.width / 110);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough);
    pen.font = `11px ${this.font}`;
    pen.textAlign = "center";
    for (let at = Math.ceil(this.view[0] / step) * step; at <= this.view[1]; at += step) {
      const x = Math.round(this.x(at)) + 0.5;
      pen.fillStyle = this.colour("line");
      pen.fillRect(x - 0.5, AXIS - 6, 1, this.height);
      pen.fillStyle = this.colour("muted");
      pen.fillText(at === 0 ? "0" : this.mark(at), x, 14);
    }
    pen.textAlign = "left";
  }

  mark(ms) { return ms >= 1000 && ms < 60000 ? `${Number((ms / 1000).toFixed(3))} s` : formatTime(Number(ms.toPrecision(9))); }

  lane(pen, lane, top, name) {
    const [from, to] = this.view;
    pen.fillStyle = this.colour("muted");
    pen.fillText(this.cut(pen, name.replace(/ \(.*\)$/, ""), GUTTER - 18), 10, top + 16);
    pen.save();
    pen.beginPath();
    pen.rect(GUTTER, top, this.width, LANE);
    pen.clip();
    let solid = GUTTER - 1; // the row is painted up to here; skip blocks that would be hidden
    let index = this.firstEnding(lane, from);
    for (; index < lane.length && lane[index].start <= to; index += 1) {
      const task = lane[index];
      const left = this.x(task.start), right = this.x(task.end);
      const loud = task.outcome === "failed" || task === this.chosen;
      if (right < solid + 0.4 && !loud) continue;
      this.block(pen, task, left, Math.max(right, left + 0.8), top + 3);
      solid = Math.max(solid, right, left + 0.8);
    }
    pen.restore();
  }

  // Tasks of a worker do not overlap, so their ends are in the same order as their starts.
  firstEnding(lane, from) {
    let low = 0, high = lane.length;
    while (low < high) { const middle = (low + high) >> 1; if (lane[middle].end < from) low = middle + 1; else high = middle; }
    return low;
  }

  block(pen, task, left, right, top) {
    const height = LANE - 6;
    pen.globalAlpha = this.pathOnly && !CRITICAL.has(task.number) ? 0.18 : 1;
    pen.fillStyle = this.colour("other");
    pen.fillRect(left, top, right - left, height);
    if (right - left > 1.5) {
      (task.phases || []).forEach((phase) => {
        const x = this.x(phase[1]);
        pen.fillStyle = this.colour(phaseColour(phase[0]));
        pen.fillRect(x, top, Math.max(0.5, this.x(phase[2]) - x), height);
      });
    } else if (task.phases && task.phases.length) {
      const main = task.phases.reduce((one, other) => (other[2] - other[1] > one[2] - one[1] ? other : one));
      pen.fillStyle = this.colour(phaseColour(main[0]));
      pen.fillRect(left, top, right - left, height);
    }
    if (task.outcome === "failed") { pen.fillStyle = this.colour("failed"); pen.fillRect(left, top + height - 4, Math.max(3, right - left), 4); }
    if (task === this.chosen) { pen.strokeStyle = this.colour("ink"); pen.lineWidth = 2; pen.strokeRect(left + 1, top, Math.max(2, right - left - 2), height); }
    if (right - left > 46) {
      const start = Math.max(left, GUTTER) + 5;
      pen.fillStyle = "#fff";
      pen.shadowColor = "#000a";
      pen.shadowBlur = 3;
      pen.fillText(this.cut(pen, task.name, right - start - 4), start, top + 13);
      pen.shadowBlur = 0;
    }
    pen.globalAlpha = 1;
  }

  cut(pen, text, width) {
    if (pen.measureText(text).width <= width) return text;
    let length = Math.min(text.length, Math.floor(width / 5));
    while (length > 1 && pen.measureText(`${text.slice(0, length)}…`).width > width) length -= 1;
    return length > 1 ? `${text.slice(0, length)}…` : "";
  }

  hit(x, y) {
    const lane = this.lanes[Math.floor((y - AXIS) / LANE)];
    if (!lane || x < GUTTER) return null;
    const at = this.timeAt(x), near = (this.view[1] - this.view[0]) / this.width * 2;
    const index = this.firstEnding(lane, at - near);
    const task = lane[index];
    return task && task.start <= at + near ? task : null;
  }

  hover(event) {
    const task = this.hit(event.offsetX, event.offsetY);
    this.tip.hidden = !task;
    if (!task) return;
    const at = this.timeAt(event.offsetX);
    const phase = (task.phases || []).find((one) => one[1] <= at && at <= one[2]);
    const lines = [task.name, `${STATES[task.outcome] || task.outcome} in ${formatTime(task.took)}`];
    if (phase) lines.push(`${PHASES[phase[0]] || phase[0]}: ${formatTime(phase[2] - phase[1])}${phase[3] ? `, ${formatSize(phase[3])}` : ""}`);
    if (task.host) lines.push(task.host);
    this.tip.textContent = lines.join("\n");
    const box = this.canvas.parentElement;
    this.tip.style.left = `${Math.min(event.offsetX + 14, box.clientWidth - this.tip.offsetWidth - 6)}px`;
    this.tip.style.top = `${Math.max(event.offsetY + 16 + this.tip.offsetHeight > this.height ? event.offsetY - this.tip.offsetHeight - 8 : event.offsetY + 16, 2)}px`;
  }
}
