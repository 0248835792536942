// Errors in their groups: what went wrong, how often, where, and another try.

import { empty, h, link, put, say } from "./dom.js";
import { count, time } from "./format.js";

export class Errors {
  constructor(context) {
    this.context = context;
    this.groups = new Map();
    this.element = h("div", {}, empty("Looking…"));
  }

  update(pulse) {
    if (!pulse.errors) return;
    if (!pulse.errors.length) {
      this.groups.clear();
      put(this.element, h("div", { class: "panel" }, empty("No errors", "Every request went well so far.")));
      return;
    }
    // Cards stay, so that one that has the focus keeps it.
    const cards = pulse.errors.map((error) => {
      const known = this.groups.get(error.id) ?? this.#card(error);
      this.groups.set(error.id, known);
      known.show(error);
      return known.element;
    });
    cards.forEach((card, i) => {
      if (this.element.children[i] !== card) this.element.insertBefore(card, this.element.children[i] ?? null);
    });
    while (this.element.children.length > cards.length) this.element.lastElementChild.remove();
  }

  #card(error) {
    const title = `group-${error.id}`;
    const number = h("p", { class: "count" });
    const when = h("span");
    const examples = h("ul", { "aria-label": "Examples" });
    const kept = h("span");
    const retry = h(
      "button",
      { type: "button", class: "small", "aria-describedby": title, onclick: () => this.#retry(retry, error.id) },
      "Try again",
    );
    const element = h(
      "article",
      { class: "panel group", "aria-labelledby": title },
      number,
      h(
        "div",
        {},
        h("h2", { id: title, class: "web" }, error.kind),
        h("p", { class: "what web" }, error.message || "without a message"),
        h("p", { class: "where" }, error.place ? h("span", { class: "web mono" }, error.place) : null, error.place ? " · " : null, when),
        examples,
      ),
      h("div", { class: "does" }, this.context.may("retry") ? retry : null, kept),
    );
    let shown = "";
    return {
      element,
      show: (fresh) => {
        say(number, `${count(fresh.count)} ×`);
        say(when, fresh.count > 1 ? `${time(fresh.first_at)} – ${time(fresh.last_at)}` : time(fresh.first_at));
        const now = JSON.stringify([fresh.examples, fresh.specimen, fresh.picture]);
        if (now === shown) return;
        shown = now;
        put(examples, ...fresh.examples.map((url) => h("li", {}, link(url))));
        put(kept, ...(fresh.specimen ? specimen(error.id, fresh.picture) : []));
      },
    };
  }

  async #retry(button, group) {
    button.disabled = true;
    await this.context.act("retry", { group });
    button.disabled = false;
    button.focus();
  }
}

/** Links to the first response of the group, which the run has kept. */
function specimen(id, hasPicture) {
  const open = (kind, text) =>
    h("a", { href: `/specimen/${encodeURIComponent(id)}?as=${kind}`, target: "_blank", rel: "noopener noreferrer" }, text);
  return [open("text", "Saved response"), " · ", open("page", "as a page, without scripts"), ...(hasPicture ? [" · ", open("picture", "screenshot")] : [])];
}
