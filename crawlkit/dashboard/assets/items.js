// Items as a table: the columns are the fields of those that are shown.

import { empty, h, link, put, table } from "./dom.js";
import { count, plural, time } from "./format.js";

const COLUMNS = 12;

export class Items {
  constructor(context) {
    this.context = context;
    this.rows = [];
    this.next = null;
    this.handler = h("select", { id: "items-handler", onchange: () => this.#begin() }, h("option", { value: "" }, "any handler"), ...context.handlers.map((name) => h("option", { value: name }, name)));
    this.found = h("div", { class: "panel found" });
    this.element = h("div", {}, h("form", { class: "panel filters" }, h("div", {}, h("label", { for: "items-handler" }, "Saved by"), this.handler)), this.found);
    this.#begin();
  }

  update() {}

  async #begin() {
    this.rows = [];
    this.next = null;
    put(this.found, empty("Looking…"));
    await this.#look();
  }

  async #look() {
    const query = new URLSearchParams();
    if (this.handler.value) query.set("handler", this.handler.value);
    if (this.next !== null) query.set("after", this.next);
    const found = await this.context.get(`/api/items?${query}`);
    if (typeof found === "string") {
      put(this.found, empty("That did not work", found));
      return;
    }
    this.rows.push(...found.rows);
    this.next = found.next;
    this.#show();
  }

  #show() {
    if (!this.rows.length) {
      put(this.found, empty("No items yet", "What handlers save with page.save() shows up here."));
      return;
    }
    const names = new Set(this.rows.flatMap((row) => Object.keys(row.data)));
    const shown = [...names].slice(0, COLUMNS);
    const columns = [
      { title: "#", number: true, of: (row) => count(row.number) },
      ...shown.map((name) => ({ title: name, of: (row) => value(row.data[name]) })),
      { title: "From", of: (row) => h("div", {}, link(row.url), h("div", { class: "quiet" }, time(row.at))) },
    ];
    const grid = table(columns, this.rows, { cards: true, label: "Items" });
    grid.classList.add("items");
    const more = h("button", { type: "button", onclick: () => this.#further(more) }, "More");
    const hidden = names.size > COLUMNS ? `, ${names.size - COLUMNS} fields not shown` : "";
    put(
      this.found,
      grid,
      h("div", { class: "more" }, h("span", { role: "status" }, `${plural(this.rows.length, "item")} shown${hidden}`), this.next === null ? null : more),
    );
  }

  async #further(button) {
    button.disabled = true;
    await this.#look();
    this.found.querySelector(".more button")?.focus();
  }
}

function value(found) {
  if (found === undefined || found === null) return null;
  const isText = typeof found === "string";
  const text = isText ? found : JSON.stringify(found);
  const inner = isText && /^https?:\/\//i.test(found) ? link(found) : h("span", { class: isText ? "name" : "web mono" }, text);
  return h("div", { class: "clip" }, inner);
}
