// Requests to look through: a page at a time, from the store.

import { empty, h, link, put, table } from "./dom.js";
import { count, plural, span, time } from "./format.js";

const OUTCOMES = [
  ["failed", "failed"],
  ["handled", "handled"],
  ["skipped", "left out"],
  ["pending", "waiting"],
  ["in_flight", "in flight"],
];
const TAGS = { handled: "good", failed: "bad", skipped: "", pending: "warn", in_flight: "warn" };

export class Requests {
  constructor(context) {
    this.context = context;
    this.rows = [];
    this.looked = 0;
    this.next = null;
    this.search = 0;
    const id = (name) => `filter-${name}`;
    this.outcome = h("select", { id: id("outcome"), onchange: () => this.#begin() }, ...OUTCOMES.map(([value, text]) => h("option", { value }, text)));
    this.host = h("input", { id: id("host"), type: "text", placeholder: "any", autocomplete: "off", spellcheck: false });
    this.handler = h("select", { id: id("handler"), onchange: () => this.#begin() }, h("option", { value: "" }, "any"), ...context.handlers.map((name) => h("option", { value: name }, name)));
    this.text = h("input", { id: id("text"), type: "search", placeholder: "in the URL or the error", autocomplete: "off", spellcheck: false });
    const field = (label, input, kind = "") => h("div", { class: kind }, h("label", { for: input.id }, label), input);
    this.found = h("div", { class: "panel found" }, empty("Looking…"));
    this.element = h(
      "div",
      {},
      h(
        "form",
        {
          class: "panel filters",
          role: "search",
          onsubmit: (event) => {
            event.preventDefault();
            this.#begin();
          },
        },
        field("Outcome", this.outcome),
        field("Handler", this.handler),
        field("Host", this.host),
        field("Text", this.text, "text"),
        h("button", { type: "submit", class: "main" }, "Look"),
      ),
      this.found,
    );
    this.#begin();
  }

  update() {}

  async #begin() {
    this.rows = [];
    this.looked = 0;
    this.next = null;
    put(this.found, empty("Looking…"));
    await this.#look();
  }

  async #look() {
    const search = ++this.search;
    const query = new URLSearchParams({ outcome: this.outcome.value });
    for (const name of ["host", "handler", "text"]) {
      if (this[name].value.trim()) query.set(name, this[name].value.trim());
    }
    if (this.next !== null) query.set("after", this.next);
    const found = await this.context.get(`/api/requests?${query}`);
    if (search !== this.search) return; // another was begun meanwhile
    if (typeof found === "string") {
      put(this.found, empty("That did not work", found));
      return;
    }
    this.rows.push(...found.rows);
    this.looked += found.looked;
    this.next = found.next;
    this.#show();
  }

  #show() {
    const columns = [
      { title: "Outcome", of: (row) => h("span", { class: `tag ${row.outcome === "failed" ? "bad" : TAGS[row.outcome]}` }, OUTCOMES.find(([name]) => name === row.outcome)[1]) },
      { title: "Status", number: true, of: (row) => row.status },
      {
        title: "Request",
        of: (row) =>
          h("div", {}, link(row.url), row.detail ? h("div", { class: "quiet web" }, row.error && !row.detail.startsWith(row.error) ? `${row.error}: ${row.detail}` : row.detail) : null),
      },
      { title: "Handler", of: (row) => (row.handler ? h("span", { class: "name" }, row.handler) : null) },
      { title: "Tried again", number: true, of: (row) => (row.retries ? count(row.retries) : null) },
      { title: "Took", number: true, of: (row) => (row.duration === null ? null : span(row.duration)) },
      { title: ["pending", "in_flight"].includes(this.outcome.value) ? "Not before" : "When", of: (row) => (row.at ? h("span", { class: "quiet" }, time(row.at)) : null) },
    ];
    const summary = `${plural(this.rows.length, "request")} shown, ${count(this.looked)} looked through`;
    const more = h("button", { type: "button", onclick: () => this.#further(more) }, this.rows.length ? "More" : "Look further");
    put(
      this.found,
      this.rows.length
        ? table(columns, this.rows, { cards: true, label: "Requests" })
        : empty("Nothing here", this.next === null ? "No request fits." : "None of those that were looked through fits."),
      h("div", { class: "more" }, h("span", { role: "status" }, summary), this.next === null ? null : more),
    );
  }

  async #further(button) {
    button.disabled = true;
    await this.#look();
    this.found.querySelector(".more button")?.focus();
  }
}
