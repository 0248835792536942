// Hosts: what was fetched from each, which are held back, and the sessions that ask them.

import { empty, h, panel, put, table } from "./dom.js";
import { bytes, count, span } from "./format.js";

const REST = 5000;
const number = (title, of) => ({ title, number: true, of });

export class Hosts {
  constructor(context) {
    this.context = context;
    this.hosts = h("div", {}, empty("Looking…"));
    this.held = h("div");
    this.sessions = h("div");
    this.isLive = context.may("pause");
    this.element = h(
      "div",
      {},
      panel("Busiest hosts", this.hosts),
      this.isLive ? h("div", { class: "grid two" }, panel("Held back", this.held), panel("Sessions", this.sessions)) : null,
    );
    this.#look();
    this.timer = setInterval(() => this.context.isLive && !document.hidden && this.#look(), REST);
  }

  close() {
    clearInterval(this.timer);
  }

  update(pulse) {
    if (!pulse.held_back) return;
    put(
      this.held,
      pulse.held_back.length
        ? table(
            [
              { title: "Host", of: (row) => h("span", { class: "name" }, row.host) },
              number("Rests for", (row) => (row.pause > 0 ? span(row.pause) : null)),
              number("Delay", (row) => (row.delay > 0 ? span(row.delay) : null)),
              number("In flight", (row) => `${count(row.in_flight)} of ${count(row.limit)}`),
              number("Refusals in a row", (row) => (row.strikes ? count(row.strikes) : null)),
            ],
            pulse.held_back,
            { label: "Hosts that are held back" },
          )
        : empty("No host is held back", "All of them answer well."),
    );
    put(
      this.sessions,
      pulse.sessions.length
        ? table(
            [
              { title: "Session", of: (row) => h("span", { class: "name mono" }, row.id) },
              number("Requests", (row) => count(row.requests)),
              number("Errors", (row) => (row.errors ? String(row.errors) : "0")),
              number("Blocked by", (row) => count(row.blocked)),
              { title: "Has", of: (row) => [row.cookies ? "cookies" : "", row.proxy ? "a proxy" : ""].filter(Boolean).join(", ") },
              number("Age", (row) => span(row.age)),
            ],
            pulse.sessions,
            { label: "Sessions" },
          )
        : empty("No session yet"),
    );
  }

  async #look() {
    const found = await this.context.get("/api/hosts");
    if (typeof found === "string") {
      put(this.hosts, empty("That did not work", found));
      return;
    }
    put(
      this.hosts,
      found.rows.length
        ? table(
            [
              { title: "Host", of: (row) => h("span", { class: "name" }, row.name) },
              number("Pages", (row) => count(row.finished)),
              number("Failed", (row) => count(row.failed)),
              number("Tried again", (row) => count(row.retried)),
              number("Mean time", (row) => (row.mean === null ? null : span(row.mean))),
              number("Received", (row) => bytes(row.bytes)),
            ],
            found.rows,
            { label: "Busiest hosts" },
          )
        : empty("No host yet", "The first response will show up here."),
    );
  }
}
