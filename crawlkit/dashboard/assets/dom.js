// Elements from data. Text goes in as text: nothing in here, or in what uses it, makes markup of
// what a site wrote; the page's policy (trusted types) would not let it.

const HTTP = /^https?:$/;

/** An element; children are nodes or text, null is left out. `class`, `data-…` and `aria-…` are
 *  attributes, `on…` listeners, all else properties. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class" || name === "for" || name === "role" || name.includes("-")) {
      element.setAttribute(name, value === true ? "" : value);
    } else element[name] = value;
  }
  put(element, ...children);
  return element;
}

/** Give an element other children. */
export function put(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Change a text only where it differs, so that nothing is read out or laid out for nothing. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** The URL of a page as a link; anything but http and https, javascript: above all, stays text. */
export function link(url, text = url) {
  let target = null;
  try {
    target = new URL(url);
  } catch {
    // No URL: it is shown as it is.
  }
  if (target === null || !HTTP.test(target.protocol)) return h("span", { class: "web" }, text);
  return h(
    "a",
    { class: "web", href: target.href, target: "_blank", rel: "noopener noreferrer" },
    text,
  );
}

/** A table. Columns are {title, of: row => node or text, number: true, class}. */
export function table(columns, rows, { cards = false, label } = {}) {
  const cell = (column, row) => {
    const content = column.of(row);
    const isNone = content === null || content === undefined || content === "";
    const classes = [column.number ? "n" : "", column.class ?? "", isNone ? "none" : ""];
    const inner = content instanceof Node ? content : h("span", {}, isNone ? "–" : String(content));
    if (isNone || content === "0") inner.classList.add("zero");
    return h("td", { class: classes.join(" ").trim() || null, "data-title": column.title }, inner);
  };
  const head = columns.map((column) =>
    h("th", { scope: "col", class: column.number ? "n" : null }, column.title),
  );
  const body = rows.map((row) => h("tr", {}, ...columns.map((column) => cell(column, row))));
  return h(
    "div",
    { class: "scroll", role: "region", "aria-label": label, tabIndex: 0 },
    h("table", { class: cards ? "cards" : null }, h("thead", {}, h("tr", {}, ...head)), h("tbody", {}, ...body)),
  );
}

/** What stands where there is nothing yet. */
export function empty(title, text = "") {
  return h("div", { class: "empty" }, h("strong", {}, title), text);
}

/** A panel with a heading. */
export function panel(title, ...children) {
  return h("section", { class: "panel" }, h("div", { class: "heading" }, h("h2", {}, title)), ...children);
}
