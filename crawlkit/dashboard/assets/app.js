// The live page: what it knows, what it is told each second, and what can be done.

import { put, say } from "./dom.js";
import { Errors } from "./errors.js";
import { plural, span, time } from "./format.js";
import { History } from "./history.js";
import { Hosts } from "./hosts.js";
import { Items } from "./items.js";
import { Overview } from "./overview.js";
import { Requests } from "./requests.js";

const VIEWS = { overview: Overview, errors: Errors, requests: Requests, items: Items, hosts: Hosts };
const AGAIN = 3000;
const TOAST = 6000;
const $ = (id) => document.getElementById(id);
const csrf = document.querySelector("meta[name=csrf]").content;

const context = {
  history: null,
  handlers: [],
  actions: [],
  isLive: true,
  may: (action) => context.actions.includes(action),
  get,
  act,
};
let view = null;
let viewName = "";
let stream = null;
let isOver = false;
let last = null;
let all = {}; // the latest of everything: what one view is told, another may show

// -- talking to the crawl ------------------------------------------------------------------------

/** What the server answers, or a text that says why not. */
async function get(path) {
  try {
    const response = await fetch(path);
    return response.ok ? await response.json() : await response.text();
  } catch {
    return isOver ? "The crawl is over, and with it this page's server." : "The crawl does not answer.";
  }
}

async function act(action, form = {}) {
  let said;
  let isBad = true;
  try {
    const response = await fetch(`/api/do/${action}`, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf },
      body: JSON.stringify(form),
    });
    isBad = !response.ok;
    said = response.ok ? (await response.json()).said : await response.text();
  } catch {
    said = "The crawl does not answer.";
  }
  toast(said, isBad);
  return !isBad;
}

let toastTimer;
function toast(text, isBad = false) {
  const element = $("toast");
  element.classList.toggle("bad", isBad);
  element.textContent = text;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => (element.textContent = ""), TOAST);
}

function banner(text, isGood = false) {
  $("banner").classList.toggle("good", isGood);
  $("banner").hidden = !text;
  say($("banner"), text);
}

async function begin() {
  const start = await get("/api/start");
  if (typeof start === "string") {
    state("lost", "not connected");
    banner(start);
    setTimeout(begin, AGAIN);
    return;
  }
  banner("");
  context.history = new History(start.samples);
  context.handlers = start.handlers;
  context.actions = start.actions;
  $("controls").hidden = !context.may("pause");
  context.about = start;
  if (view === null) route();
  else listen();
}

function listen() {
  stream?.close();
  if (isOver || document.hidden) return;
  stream = new EventSource(`/api/events?view=${viewName}`);
  stream.addEventListener("pulse", (event) => pulse(JSON.parse(event.data)));
  stream.addEventListener("trouble", (event) => banner(JSON.parse(event.data).said));
  stream.addEventListener("end", end);
  stream.addEventListener("error", () => {
    if (isOver) return;
    state("lost", "not connected");
    if (stream.readyState === EventSource.CLOSED) setTimeout(begin, AGAIN);
  });
}

function end() {
  isOver = true;
  stream.close();
  for (const button of $("controls").querySelectorAll("button, input")) button.disabled = true;
  $("controls").hidden = true;
  const { address } = context.about;
  const again = last?.state === "finished" ? "The crawl is finished." : "The crawl has stopped; run it again to go on.";
  banner(`${again} This page stays as it is. See more with: crawlkit dashboard ${address}, or crawlkit report ${address}`, last?.state === "finished");
}

// -- what is told each second --------------------------------------------------------------------

function pulse(news) {
  last = news;
  all = { ...all, ...news };
  banner(news.state === "trouble" ? "The run cannot be written at the moment. Nothing is lost, and nothing new is begun." : "");
  state(news.state, news.state === "trouble" ? "cannot save" : news.state);
  context.isLive = !["finished", "stopped"].includes(news.state);
  if (context.isLive || context.history.time.length === 0) context.history.push(news);
  steer(news);
  const badge = $("errors-badge");
  badge.hidden = !news.failed;
  say(badge, news.failed ? String(news.failed) : "");
  badge.setAttribute("aria-label", `${plural(news.failed, "request")} failed`);
  about(news);
  view?.update(news);
}

function state(name, text) {
  const element = $("state");
  if (element.dataset.state !== name) element.dataset.state = name;
  say(element, text);
}

function steer(news) {
  if (!context.may("pause")) return;
  const isStopping = ["stopping", "finished", "stopped"].includes(news.state);
  const button = $("pause");
  button.dataset.action = news.state === "paused" ? "resume" : "pause";
  say(button, news.state === "paused" ? "Go on" : "Pause");
  for (const id of ["pause", "checkpoint", "stop", "less", "more", "concurrency"]) $(id).disabled = isStopping;
  const input = $("concurrency");
  if (document.activeElement !== input && !waiting) input.value = String(news.concurrency);
}

function about(news) {
  const { address, version } = context.about;
  const parts = [
    address,
    news.lives > 1 ? `life ${news.lives}` : null,
    news.started_at ? `started ${time(news.started_at)}` : null,
    `ran ${span(news.runtime)}`,
    `crawlkit ${version}`,
  ];
  say($("about"), parts.filter(Boolean).join(" · "));
}

// -- views ---------------------------------------------------------------------------------------

function route() {
  if (context.history === null) return;
  const wanted = location.hash.slice(1);
  const name = Object.hasOwn(VIEWS, wanted) ? wanted : "overview";
  if (name === viewName && view !== null) return;
  view?.close?.();
  const isFirst = viewName === "";
  viewName = name;
  view = new VIEWS[name](context);
  put($("main"), view.element);
  for (const tab of $("tabs").children) {
    if (tab.hash === `#${name}`) {
      tab.setAttribute("aria-current", "page");
      tab.scrollIntoView({ block: "nearest", inline: "center" });
    } else tab.removeAttribute("aria-current");
  }
  if (!isFirst) window.scrollTo(0, 0);
  if (last !== null) view.update(all);
  listen();
}

// -- what can be done ----------------------------------------------------------------------------

let waiting = null;
function setConcurrency() {
  clearTimeout(waiting);
  waiting = null;
  const value = Number($("concurrency").value);
  if (Number.isInteger(value) && value > 0) act("concurrency", { value });
}

function step(by) {
  const input = $("concurrency");
  input.value = String(Math.max(1, (Number(input.value) || 1) + by));
  clearTimeout(waiting);
  waiting = setTimeout(setConcurrency, 700); // once, for several clicks
}

$("pause").addEventListener("click", async () => {
  const action = $("pause").dataset.action ?? "pause";
  if (await act(action)) steer({ ...last, state: action === "pause" ? "paused" : "running" });
});
$("checkpoint").addEventListener("click", () => act("checkpoint"));
$("less").addEventListener("click", () => step(-1));
$("more").addEventListener("click", () => step(1));
$("concurrency").addEventListener("change", setConcurrency);
$("stop").addEventListener("click", () => $("sure").showModal());
$("sure-no").addEventListener("click", () => $("sure").close());
$("sure-yes").addEventListener("click", () => {
  $("sure").close();
  act("stop");
});
$("skip").addEventListener("click", (event) => {
  event.preventDefault();
  $("main").focus();
});

window.addEventListener("hashchange", route);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) stream?.close();
  else if (!isOver) begin();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => view?.repaint?.());
begin();
