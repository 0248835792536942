// Where the crawl stood over time: the samples that the run has kept, and each second's news since.

const FIELDS = ["finished", "failed", "pending", "in_flight", "items", "bytes", "memory", "p50", "p95"];
const MOST = 4000;

export class History {
  constructor(samples) {
    this.time = samples.time.map((iso) => Date.parse(iso) / 1000);
    for (const field of FIELDS) this[field] = [...samples[field]];
  }

  push(pulse) {
    const last = this.time.at(-1);
    if (last !== undefined && pulse.at - last < 0.3) return; // a look that was shared
    this.time.push(pulse.at);
    for (const field of FIELDS) this[field].push(pulse[field] ?? null);
    if (this.time.length > MOST) this.#thin();
  }

  /** Pages a second over the last few seconds. */
  get rate() {
    const end = this.time.length - 1;
    let begin = end;
    while (begin > 0 && this.time[end] - this.time[begin] < 5) begin--;
    const passed = this.time[end] - this.time[begin];
    return passed > 0 && passed < 60 ? Math.max(0, (this.finished[end] - this.finished[begin]) / passed) : null;
  }

  /** The points of the last `seconds`, as charts take them. */
  since(seconds) {
    const { time } = this;
    const end = time.length;
    let begin = 0;
    if (Number.isFinite(seconds)) {
      const from = time[end - 1] - seconds;
      begin = time.findIndex((at) => at >= from);
    }
    const points = { time: [], pages: [], failures: [] };
    for (const field of FIELDS) points[field] = [];
    for (let i = begin; i < end; i++) {
      if (i > begin && this.#isGap(i)) {
        // A point of nothing, where the lines break off.
        points.time.push((time[i - 1] + time[i]) / 2);
        for (const field of [...FIELDS, "pages", "failures"]) points[field].push(null);
      }
      points.time.push(time[i]);
      for (const field of FIELDS) points[field].push(this[field][i]);
      points.pages.push(this.#rateAt(this.finished, i));
      points.failures.push(this.#rateAt(this.failed, i));
    }
    return points;
  }

  /** Whether nothing was running before this point: a pause between two lives. */
  #isGap(i) {
    if (i === 0) return false;
    const step = this.time[i] - this.time[i - 1];
    const before = i > 1 ? this.time[i - 1] - this.time[i - 2] : step;
    return step > 15 && step > 5 * before;
  }

  #rateAt(values, i) {
    if (i === 0 || this.time[i] <= this.time[i - 1] || this.#isGap(i)) return null;
    let from = i - 1;
    while (from > 0 && this.time[i] - this.time[from] < 2.5 && this.time[from] - this.time[from - 1] < 5) from--;
    const grown = values[i] - values[from];
    return Math.max(0, grown / (this.time[i] - this.time[from]));
  }

  #thin() {
    // The older half keeps every second point.
    const half = Math.floor(MOST / 2);
    for (const field of ["time", ...FIELDS]) {
      this[field] = this[field].filter((_, i) => i >= half || i % 2 === 0);
    }
  }
}
