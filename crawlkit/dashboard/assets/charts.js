// Charts, by uPlot; the legend is ours, and tells what is under the pointer or else the latest.

import { h, say } from "./dom.js";
import { clock, date } from "./format.js";

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Title, the series as {name, color: a custom property, of: points => values}, and their unit. */
export class Chart {
  #plot = null;
  #points = null;

  constructor(title, series, { format, least = 0, hint = "" }) {
    this.series = series;
    this.format = format;
    this.least = least;
    this.values = series.map(() => h("b"));
    const legend = series.map((one, i) => {
      const swatch = h("i", { "aria-hidden": "true" });
      swatch.style.setProperty("--swatch", `var(${one.color})`);
      return h("span", {}, swatch, `${one.name} `, this.values[i]);
    });
    this.plot = h("div", { class: "plot", role: "img", "aria-label": `${title} over time` });
    this.element = h(
      "section",
      { class: "panel" },
      h("div", { class: "heading" }, h("h2", {}, title), h("div", { class: "legend" }, ...legend)),
      this.plot,
      hint ? h("p", { class: "hint quiet" }, hint) : null,
    );
    this.observer = new ResizeObserver(() => this.#resize());
    this.observer.observe(this.plot);
  }

  close() {
    this.observer.disconnect();
    this.#plot?.destroy();
  }

  /** Other colours, after a change between light and dark. */
  repaint() {
    this.#plot?.destroy();
    this.#plot = null;
    if (this.#points) this.show(this.#points);
  }

  show(points) {
    this.#points = points;
    const data = [points.time, ...this.series.map((one) => one.of(points))];
    if (points.time.length < 2 || this.plot.clientWidth === 0) {
      this.#tell(points.time.length - 1);
      return;
    }
    if (this.#plot === null) this.#plot = new window.uPlot(this.#options(), data, this.plot);
    else this.#plot.setData(data);
    if (this.#plot.cursor.idx === null || this.#plot.cursor.idx === undefined) this.#tell(points.time.length - 1);
  }

  #tell(index) {
    this.series.forEach((one, i) => {
      const value = this.#points && index >= 0 ? one.of(this.#points)[index] : null;
      say(this.values[i], value === null || value === undefined ? "–" : this.format(value));
    });
  }

  #resize() {
    if (this.plot.clientWidth === 0) return;
    if (this.#plot === null) {
      if (this.#points) this.show(this.#points);
    } else this.#plot.setSize({ width: this.plot.clientWidth, height: this.plot.clientHeight });
  }

  #options() {
    const axis = {
      stroke: color("--soft"),
      font: "12px system-ui, sans-serif",
      grid: { stroke: color("--grid"), width: 1 },
      ticks: { show: false },
    };
    return {
      width: this.plot.clientWidth,
      height: this.plot.clientHeight,
      padding: [8, 10, 0, 0],
      legend: { show: false },
      cursor: {
        y: false,
        drag: { x: false, y: false },
        sync: { key: "crawl" },
        points: { size: 7 },
      },
      scales: {
        y: { range: (_, low, high) => [0, Math.max(this.least, (high ?? 0) * 1.1) || 1] },
      },
      axes: [
        { ...axis, size: 28, space: 70, values: (plot, splits, _, __, step) => splits.map((at) => (isAtEdge(plot, at) ? "" : tick(at, step))) },
        { ...axis, size: 58, space: 34, values: (_, splits) => splits.map((value) => this.format(value)) },
      ],
      series: [
        {},
        ...this.series.map((one, i) => ({
          label: one.name,
          stroke: color(one.color),
          width: 1.75,
          spanGaps: false,
          points: { show: false },
          fill: i === 0 && one.filled ? `${color(one.color)}1f` : undefined,
        })),
      ],
      hooks: {
        setCursor: [
          (plot) => {
            const { idx } = plot.cursor;
            this.#tell(idx ?? (this.#points ? this.#points.time.length - 1 : -1));
          },
        ],
      },
    };
  }
}

/** Whether what is written below this point would be cut off. */
function isAtEdge(plot, at) {
  const width = plot.bbox.width / devicePixelRatio;
  return plot.valToPos(at, "x") > width - 22;
}

function tick(at, step) {
  const moment = new Date(at * 1000);
  if (step >= 86_400) return date(moment).slice(5);
  return clock(moment, step < 60);
}
