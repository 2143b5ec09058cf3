"use strict";
// Light and dark: as the system has it, until the reader chooses. A browser may refuse to remember for a file.
const remembered = { get() { try { return localStorage.theme } catch { return null } }, set(value) { try { localStorage.theme = value } catch { } } };
if (remembered.get()) document.documentElement.dataset.theme = remembered.get();
document.querySelector("#theme").addEventListener("click", () => {
  const now = document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme:dark)").matches ? "dark" : "light");
  document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
  remembered.set(document.documentElement.dataset.theme);
});

// Tables: a click on a head sorts by that column. Tables whose cells span several rows or columns stay as they are.
const number = text => {
  const plain = text.replace(/[,\s%]/g, "").replace("−", "-");
  const match = plain.match(/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?/i);
  return match ? parseFloat(match[0]) : NaN;
};
const empty = text => /^(|nan|none|<na>|–|—|-|\.\.\.)$/i.test(text);
function sortable(table) {
  const body = table.tBodies[0];
  if (!table.tHead || !body || body.rows.length < 2 || table.querySelector("[colspan]:not([colspan='1']),[rowspan]:not([rowspan='1'])")) return;
  const heads = [...table.tHead.rows[0].cells], rows = [...body.rows];
  if (rows.some(row => row.cells.length !== heads.length)) return;
  const text = (row, column) => row.cells[column].textContent.trim();
  heads.forEach((head, column) => {
    const cells = rows.map(row => text(row, column)).filter(cell => !empty(cell));
    const numeric = cells.length > 0 && cells.every(cell => !isNaN(number(cell)));
    if (!numeric) for (const row of [...table.tHead.rows, ...rows]) row.cells[column]?.classList.add("text");
    const key = row => numeric ? number(text(row, column)) : text(row, column).toLowerCase();
    const sort = () => {
      const up = head.getAttribute("aria-sort") === "none" ? !numeric : head.getAttribute("aria-sort") === "descending";
      heads.forEach(other => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const compare = (a, b) => numeric ? key(a) - key(b) : key(a).localeCompare(key(b), undefined, { numeric: true });
      const full = rows.filter(row => !empty(text(row, column))).sort((a, b) => up ? compare(a, b) : compare(b, a));
      body.append(...full, ...rows.filter(row => empty(text(row, column))));
    };
    head.setAttribute("aria-sort", "none");
    head.tabIndex = 0;
    head.title = "Sort by this column";
    head.addEventListener("click", sort);
    head.addEventListener("keydown", event => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort() } });
  });
}
document.querySelectorAll("main table").forEach(sortable);

// Figures: a click shows one as large as the window.
const dialog = document.createElement("dialog"), large = new Image();
large.alt = "";
document.querySelectorAll("main figure img").forEach(image => {
  image.tabIndex = 0;
  image.setAttribute("role", "button");
  const open = () => {
    large.src = image.src; large.alt = image.alt;
    if (!dialog.isConnected) { dialog.append(large); document.body.append(dialog) }
    dialog.showModal();
  };
  image.addEventListener("click", open);
  image.addEventListener("keydown", event => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open() } });
});
dialog.addEventListener("click", () => dialog.close());

// On a narrow window the lists beside the text start closed.
if (matchMedia("(max-width:60rem)").matches) document.querySelectorAll("aside details").forEach(list => { list.open = false });

// Search: the index is a script, because a page from a file may load a script but not fetch a file.
const field = document.querySelector("#search"), found = document.querySelector("#found"), root = document.body.dataset.root;
let loading = null;
const load = () => loading ??= new Promise(done => {
  const script = document.createElement("script");
  script.src = root + "site/search.js";
  script.onload = script.onerror = () => done(window.searchIndex || []);
  document.head.append(script);
});
const plain = text => text.toLowerCase();
function score(entry, words) {
  let sum = 0;
  for (const word of words) {
    const title = plain(entry.t), body = plain(entry.b), names = title.split(/\W+/);
    const points = (names.includes(word) ? 12 : title.includes(word) ? 6 : 0) + (body.includes(word) ? 1 + (new RegExp("\\b" + word.replace(/\W/g, "\\$&")).test(body)) : 0);
    if (!points) return 0;
    sum += points + (entry.k === "api" && title === word ? 20 : 0);
  }
  return sum;
}
function line(entry, words) {
  const link = document.createElement("a"), title = document.createElement("b"), small = document.createElement("small");
  link.href = root + entry.u; link.setAttribute("role", "option"); title.textContent = entry.t;
  const at = Math.max(0, plain(entry.b).indexOf(words[0]) - 50), part = entry.b.slice(at, at + 170);
  small.append(entry.p + (part ? " · " : ""), (at ? "…" : "") + part);
  link.append(title, small);
  return link;
}
async function look() {
  const words = plain(field.value).split(/\s+/).filter(Boolean);
  if (!words.length) { found.hidden = true; return }
  const index = await load();
  const best = index.map(entry => [score(entry, words), entry]).filter(([points]) => points).sort((a, b) => b[0] - a[0]).slice(0, 14);
  found.replaceChildren(...best.map(([, entry]) => line(entry, words)));
  if (!best.length) { const none = document.createElement("p"); none.textContent = "Nothing found."; found.append(none) }
  found.hidden = false;
}
field.addEventListener("focus", load);
field.addEventListener("input", look);
document.addEventListener("keydown", event => {
  if (event.key === "/" && !/input|textarea/i.test(document.activeElement.tagName)) { event.preventDefault(); field.focus() }
  if (event.key === "Escape") { found.hidden = true; field.blur() }
  const links = [...found.querySelectorAll("a")];
  if (found.hidden || !links.length || !["ArrowDown", "ArrowUp", "Enter"].includes(event.key)) return;
  const now = links.findIndex(link => link.getAttribute("aria-selected"));
  if (event.key === "Enter") { if (document.activeElement === field) links[Math.max(now, 0)].click(); return }
  event.preventDefault();
  links[now]?.removeAttribute("aria-selected");
  const next = links[(now + (event.key === "ArrowDown" ? 1 : links.length - 1) + (now < 0 && event.key === "ArrowUp" ? 1 : 0)) % links.length];
  next.setAttribute("aria-selected", "true"); next.scrollIntoView({ block: "nearest" });
});
document.addEventListener("click", event => { if (!event.target.closest("#found,#search")) found.hidden = true });
