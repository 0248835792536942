// Overview: where the crawl stands, over time, and what it did by handler.

import { Chart } from "./charts.js";
import { empty, h, panel, put, say, table } from "./dom.js";
import { brief, bytes, count, rate, roughly, span } from "./format.js";

const RANGES = [
  ["5 min", 300],
  ["1 h", 3600],
  ["All", Infinity],
];

class Tile {
  constructor(title, unit = "") {
    this.value = h("span", { class: "value" }, "–");
    this.note = h("dd", { class: "note" });
    this.element = h(
      "div",
      { class: "tile" },
      h("dt", {}, title),
      h("dd", {}, this.value, unit ? h("span", { class: "unit" }, unit) : null),
      this.note,
    );
  }

  show(value, note = "", isBad = false) {
    say(this.value, value);
    say(this.note, note);
    this.element.classList.toggle("bad", isBad);
  }
}

export class Overview {
  constructor(context) {
    this.context = context;
    this.range = Infinity;
    this.tiles = {
      rate: new Tile("Throughput", "pages/s"),
      done: new Tile("Done"),
      failed: new Tile("Failed"),
      pending: new Tile("Waiting"),
      flight: new Tile("In flight"),
      items: new Tile("Items"),
    };
    this.charts = [
      new Chart(
        "Throughput",
        [
          { name: "pages/s", color: "--one", filled: true, of: (p) => p.pages },
          { name: "failures/s", color: "--two", of: (p) => p.failures },
        ],
        { format: rate, least: 1 },
      ),
      new Chart(
        "Latency",
        [
          { name: "half within", color: "--one", of: (p) => p.p50 },
          { name: "95 % within", color: "--two", of: (p) => p.p95 },
        ],
        { format: span, least: 0.01 },
      ),
      new Chart(
        "Queue",
        [
          { name: "waiting", color: "--one", filled: true, of: (p) => p.pending },
          { name: "in flight", color: "--two", of: (p) => p.in_flight },
        ],
        { format: brief, least: 10 },
      ),
      new Chart("Memory", [{ name: "resident", color: "--one", filled: true, of: (p) => p.memory }], {
        format: bytes,
        least: 2e7,
      }),
    ];
    this.done = h("span");
    this.failed = h("span", { class: "failed" });
    this.progress = h("div", { class: "progress", role: "progressbar", "aria-label": "Done of what is known", "aria-valuemin": "0", "aria-valuemax": "100" }, this.done, this.failed);
    this.tables = h("div", { class: "grid wide" });
    this.buttons = RANGES.map(([name, seconds]) =>
      h("button", { type: "button", "aria-pressed": String(seconds === this.range), onclick: () => this.#choose(seconds) }, name),
    );
    this.element = h(
      "div",
      {},
      h("dl", { class: "tiles" }, ...Object.values(this.tiles).map((tile) => tile.element)),
      this.progress,
      h("div", { class: "toolbar" }, h("div", { class: "segments", role: "group", "aria-label": "Time shown in the charts" }, ...this.buttons)),
      h("div", { class: "grid two" }, ...this.charts.map((chart) => chart.element)),
      this.tables,
    );
  }

  close() {
    for (const chart of this.charts) chart.close();
  }

  repaint() {
    for (const chart of this.charts) chart.repaint();
  }

  update(pulse) {
    this.#tiles(pulse);
    this.#draw();
    if (pulse.handlers) this.#tables(pulse);
  }

  #choose(seconds) {
    this.range = seconds;
    RANGES.forEach(([, one], i) => this.buttons[i].setAttribute("aria-pressed", String(one === seconds)));
    this.#draw();
  }

  #draw() {
    const points = this.context.history.since(this.range);
    for (const chart of this.charts) chart.show(points);
  }

  #tiles(pulse) {
    const isLive = !["finished", "stopped"].includes(pulse.state);
    const speed = isLive ? this.context.history.rate : pulse.runtime > 0 ? pulse.finished / pulse.runtime : null;
    const { tiles } = this;
    tiles.rate.show(rate(speed), isLive ? `${rate(pulse.runtime > 0 ? pulse.finished / pulse.runtime : null)} on average` : "on average");
    const ended = pulse.finished + pulse.failed + pulse.dropped;
    const share = pulse.total > 0 ? ended / pulse.total : 0;
    const floor = share < 1 ? Math.min(99.9, share * 100) : 100;
    tiles.done.show(brief(pulse.finished), pulse.total ? `${floor.toFixed(share < 1 ? 1 : 0)} % of ${brief(pulse.total)} known` : "nothing known yet");
    tiles.failed.show(brief(pulse.failed), `${count(pulse.retried)} ${pulse.retried === 1 ? "try" : "tries"} made again`, pulse.failed > 0);
    const left = isLive && speed > 0 && pulse.pending > 0 ? `${roughly(pulse.pending / speed)} at this pace` : pulse.pending ? "" : "nothing left";
    tiles.pending.show(brief(pulse.pending), left);
    const limit = pulse.limit !== undefined ? `of ${count(pulse.limit)}` : pulse.holder ? `in process ${pulse.holder}` : "";
    tiles.flight.show(brief(pulse.in_flight), limit);
    tiles.items.show(brief(pulse.items), `${bytes(pulse.bytes)} received`);
    this.done.style.width = `${pulse.total ? (100 * (ended - pulse.failed)) / pulse.total : 0}%`;
    this.failed.style.width = `${pulse.total ? (100 * pulse.failed) / pulse.total : 0}%`;
    this.progress.setAttribute("aria-valuenow", String(Math.floor(100 * share)));
  }

  #tables(pulse) {
    const number = (title, of) => ({ title, number: true, of });
    const handlers = pulse.handlers.length
      ? table(
          [
            { title: "Handler", of: (row) => h("span", { class: "name" }, row.name) },
            number("Pages", (row) => count(row.finished)),
            number("Failed", (row) => count(row.failed)),
            number("Tried again", (row) => count(row.retried)),
            number("Items", (row) => count(row.items)),
            number("Mean time", (row) => (row.mean === null ? null : span(row.mean))),
          ],
          pulse.handlers,
          { label: "By handler" },
        )
      : empty("No page yet", "The first one will show up here.");
    const durations = Object.entries(pulse.durations).filter(([, row]) => row.count);
    const times = durations.length
      ? table(
          [
            { title: "Requests", of: ([name]) => name },
            ...["min", "p50", "p90", "p95", "p99", "max"].map((key) => number(key, ([, row]) => span(row[key]))),
          ],
          durations,
          { label: "How long requests took" },
        )
      : empty("No times yet");
    put(
      this.tables,
      h("div", { class: "stack" }, panel("By handler", handlers), panel("How long requests took", times)),
      h(
        "div",
        { class: "stack" },
        panel("Responses by status", bars(pulse.statuses, (status) => status >= 400)),
        panel("Left out, and why", bars(pulse.skipped_by, () => false, "No link was left out.")),
        pulse.retries.some(([retries]) => retries > 0)
          ? panel("Tried again before it ended", bars(pulse.retries.map(([n, times]) => [n === 0 ? "not once" : `${n} ×`, times]), () => false))
          : null,
      ),
    );
  }
}

/** Names and numbers, the larger the longer. */
function bars(rows, isBad, none = "Nothing yet.") {
  if (!rows.length) return h("p", { class: "quiet" }, none);
  const most = Math.max(...rows.map(([, n]) => n));
  const cells = rows.flatMap(([name, n]) => {
    const meter = h("span", { class: isBad(name) ? "meter bad" : "meter", "aria-hidden": "true" });
    meter.style.width = `${(100 * n) / most}%`;
    return [h("dt", { class: "web" }, String(name)), h("dd", {}, h("span", { class: "track" }, meter), h("span", { class: "n" }, count(n)))];
  });
  return h("dl", { class: "bars" }, ...cells);
}
