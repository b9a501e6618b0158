// The table: sorted, filtered, searched; only visible rows are in the document.

const ROW = 28;
const COLUMNS = [
  { key: "name", label: "Task", width: "31%", text: (task) => task.name },
  { key: "outcome", label: "State", width: "13%", node: stateOf, order: (task) => Object.keys(STATES).indexOf(task.outcome) },
  { key: "artifact", label: "Artifact", width: "20%", text: (task) => task.artifact || "" },
  { key: "size", label: "Size", width: "9%", number: true, text: (task) => formatSize(task.size), order: (task) => task.size },
  { key: "took", label: "Time", width: "9%", number: true, text: (task) => formatTime(task.took), order: (task) => task.took },
  { key: "rate", label: "Rate", width: "9%", number: true, text: (task) => (task.rate ? `${formatSize(task.rate)}/s` : ""), order: (task) => task.rate },
  { key: "host", label: "From", width: "17%", text: (task) => task.host },
];

class Table {
  constructor(choose) {
    this.choose = choose;
    this.sort = { key: "took", down: true };
    this.states = new Set();
    this.at = -1;
    this.rows = [];
    this.scroll = document.getElementById("scroll");
    this.body = document.getElementById("rows");
    this.search = document.getElementById("search");
    this.kind = document.getElementById("kind");
    this.drawn = "";
    this.head();
    this.filters();
    this.scroll.addEventListener("scroll", () => this.draw());
    this.scroll.addEventListener("keydown", (event) => this.key(event));
    this.refresh();
  }

  head() {
    const head = document.getElementById("head");
    COLUMNS.forEach((column) => {
      const button = create("button", { type: "button", textContent: column.label });
      button.addEventListener("click", () => {
        const down = this.sort.key === column.key ? !this.sort.down : Boolean(column.number);
        this.sort = { key: column.key, down };
        this.refresh();
      });
      column.cell = create("th", { scope: "col", class: column.number ? "number" : "" }, button);
      column.cell.style.width = column.width;
      column.button = button;
      head.append(column.cell);
    });
  }

  filters() {
    const kinds = [...new Set(TASKS.map((task) => task.kind))].sort();
    kinds.forEach((kind) => this.kind.append(create("option", { value: kind, textContent: kind })));
    const present = new Set(TASKS.map((task) => task.outcome));
    const chips = document.getElementById("states");
    Object.keys(STATES).filter((state) => present.has(state)).forEach((state) => {
      const chip = create("button", { type: "button", "aria-pressed": "false", "data-state": state }, stateOf({ outcome: state }));
      chip.addEventListener("click", () => {
        if (!this.states.delete(state)) this.states.add(state);
        chip.setAttribute("aria-pressed", String(this.states.has(state)));
        this.refresh();
      });
      chips.append(chip);
    });
    this.search.addEventListener("input", () => this.refresh());
    this.kind.addEventListener("change", () => this.refresh());
  }

  refresh() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const kind = this.kind.value;
    const column = COLUMNS.find((one) => one.key === this.sort.key);
    const order = column.order || ((task) => task[column.key] || undefined);
    this.rows = TASKS.filter((task) => (!kind || task.kind === kind)
      && (!this.states.size || this.states.has(task.outcome)) && words.every((word) => task.text.includes(word)));
    const keys = new Map(this.rows.map((task) => [task, order(task)]));
    const sign = this.sort.down ? -1 : 1;
    this.rows.sort((one, other) => {
      const a = keys.get(one), b = keys.get(other);
      if (a === b) return one.number - other.number;
      if (a === undefined) return 1; // tasks without a value come last in both directions
      if (b === undefined) return -1;
      return a < b ? -sign : sign;
    });
    COLUMNS.forEach((one) => {
      const here = one === column;
      one.cell.setAttribute("aria-sort", here ? (this.sort.down ? "descending" : "ascending") : "none");
      one.button.textContent = here ? `${one.label} ${this.sort.down ? "↓" : "↑"}` : one.label;
    });
    document.getElementById("count").textContent = `${formatCount(this.rows.length)} of ${formatCount(TASKS.length)}`;
    document.getElementById("table").setAttribute("aria-rowcount", String(this.rows.length + 1));
    this.at = -1;
    this.scroll.scrollTop = 0;
    this.drawn = "";
    this.draw();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.scroll.scrollTop / ROW) - 6);
    const last = Math.min(this.rows.length, Math.ceil((this.scroll.scrollTop + this.scroll.clientHeight) / ROW) + 6);
    const drawn = `${first} ${last} ${this.at}`;
    if (drawn === this.drawn) return;
    this.drawn = drawn;
    const shown = [this.space(first * ROW)];
    for (let index = first; index < last; index += 1) shown.push(this.row(index));
    shown.push(this.space((this.rows.length - last) * ROW));
    this.body.replaceChildren(...shown);
    if (this.at >= 0) this.scroll.setAttribute("aria-activedescendant", `row-${this.at}`);
    else this.scroll.removeAttribute("aria-activedescendant");
  }

  space(height) {
    const cell = create("td", { colSpan: COLUMNS.length });
    cell.style.height = `${height}px`;
    return create("tr", { class: "space", "aria-hidden": "true" }, cell);
  }

  row(index) {
    const task = this.rows[index];
    const row = create("tr", { class: index === this.at ? "row at" : "row", id: `row-${index}`, "aria-rowindex": index + 2 });
    COLUMNS.forEach((column) => {
      const cell = create("td", { class: column.number ? "number" : "" });
      if (column.node) cell.append(column.node(task));
      else cell.textContent = cell.title = column.text(task);
      row.append(cell);
    });
    row.addEventListener("click", () => { this.at = index; this.draw(); this.choose(task); });
    return row;
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.scroll.clientHeight / ROW) - 2);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -1e9, End: 1e9 };
    if (event.target !== this.scroll) return;
    if (event.key === "Enter" && this.at >= 0) this.choose(this.rows[this.at]);
    else if (event.key in steps && this.rows.length) {
      this.at = Math.min(this.rows.length - 1, Math.max(0, this.at + steps[event.key]));
      const top = this.at * ROW, height = this.scroll.clientHeight - 40;
      if (top < this.scroll.scrollTop) this.scroll.scrollTop = top;
      if (top + ROW > this.scroll.scrollTop + height) this.scroll.scrollTop = top + ROW - height;
      this.draw();
    } else return;
    event.preventDefault();
  }
}
