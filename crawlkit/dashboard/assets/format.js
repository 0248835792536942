// Numbers for people: the same units as on the command line.

const GROUPED = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export function count(n) {
  return n === null || n === undefined ? "–" : GROUPED.format(n);
}

/** A large number on little space: 12,345 and 1.23 M. */
export function brief(n) {
  if (n === null || n === undefined) return "–";
  if (n < 100_000) return GROUPED.format(n);
  if (n < 1_000_000) return `${(n / 1000).toFixed(0)} k`;
  return n < 1e9 ? `${(n / 1e6).toFixed(2)} M` : `${(n / 1e9).toFixed(2)} G`;
}

export function rate(n) {
  if (n === null || n === undefined || !Number.isFinite(n)) return "–";
  if (n === 0) return "0";
  return n >= 100 ? GROUPED.format(n) : n.toFixed(n >= 10 ? 0 : 1);
}

export function bytes(n) {
  if (n === null || n === undefined) return "–";
  let value = n;
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (value < 1000) return unit === "B" ? `${value} B` : `${value.toFixed(1)} ${unit}`;
    value /= 1000;
  }
  return `${value.toFixed(1)} TB`;
}

export function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds === 0) return "0 s";
  if (seconds < 1) return `${(seconds * 1000).toFixed(seconds < 0.1 ? 1 : 0)} ms`;
  if (seconds < 10) return `${seconds.toFixed(2)} s`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const minutes = Math.floor(Math.round(seconds) / 60);
  if (minutes < 60) return `${minutes} min ${String(Math.round(seconds) % 60).padStart(2, "0")} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${String(minutes % 60).padStart(2, "0")} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** A span that does not flicker: whole units only. */
export function roughly(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds / 5) * 5)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${(seconds / 86_400).toFixed(1)} d`;
}

/** An ISO time in the viewer's zone. */
export function time(iso) {
  if (!iso) return "–";
  const moment = new Date(iso);
  const day = moment.toDateString() === new Date().toDateString() ? "" : `${date(moment)} `;
  return day + clock(moment);
}

export function date(moment) {
  const year = String(moment.getFullYear());
  return `${year}-${two(moment.getMonth() + 1)}-${two(moment.getDate())}`;
}

export function clock(moment, withSeconds = true) {
  const text = `${two(moment.getHours())}:${two(moment.getMinutes())}`;
  return withSeconds ? `${text}:${two(moment.getSeconds())}` : text;
}

function two(n) {
  return String(n).padStart(2, "0");
}

export function plural(n, noun) {
  return `${count(n)} ${noun}${n === 1 ? "" : "s"}`;
}
