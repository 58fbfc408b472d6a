// The page: which problem, which orders, which step; and the hands that change it.

const FEW_NOTES = 12; // that many are shown at once
const SHORT = 40; // longer sequences stand below one another
const LETTERS = "ABCDEFGH";
const FILTERS = {
  all: ["all problems", () => true],
  ab: ["A right, B wrong", (a, b) => a && !b],
  ba: ["A wrong, B right", (a, b) => !a && b],
  both: ["both right", (a, b) => a && b],
  none: ["both wrong", (a, b) => !a && !b],
};

const now = { problem: 0, step: 0, chosen: null, shade: "confidence", filter: "all", timer: null };
let page;
let columns = [];
let turn = 0; // the latest change: what was loaded for an older one is not drawn

const rightIn = (column, number) => page.runs[column.run].correct[number] === "1";
const lastStep = () => Math.max(1, ...columns.map((column) => column.replay.last));

function addColumn(run) {
  const letter = LETTERS[columns.length];
  const column = new Column(page, letter, run, {
    run: (number) => { column.run = number; changed(); },
    step: (t) => { pause(); goTo(t); },
    choose: (at) => { now.chosen = now.chosen === at ? null : at; draw(); },
    remove: () => { columns = columns.filter((each) => each !== column); relabel(); changed(); },
  });
  columns.push(column);
}

/** Columns keep their letters in order after one is gone. */
function relabel() {
  const runs = columns.map((column) => column.run);
  columns = [];
  runs.forEach(addColumn);
}

/** Another order or filter: the marks in the list change too. */
async function changed() {
  find("columns").replaceChildren(...columns.map((column) => column.element));
  find("add").disabled = columns.length >= Math.min(LETTERS.length, 6);
  fillFilter();
  fillList();
  await open(now.problem);
}

function fillFilter() {
  const select = find("filter");
  const names = columns.length > 1 ? Object.keys(FILTERS) : ["all"];
  const options = names.map((name) => make("option", { value: name, text: `${FILTERS[name][0]} (${matching(name).length})` }));
  select.replaceChildren(...options);
  select.value = now.filter = names.includes(now.filter) ? now.filter : "all";
}

function matching(filter) {
  const numbers = page.problems.map((_, number) => number);
  const [a, b] = columns;
  return numbers.filter((number) => FILTERS[filter][1](rightIn(a, number), b ? rightIn(b, number) : true));
}

function fillList() {
  const numbers = matching(now.filter);
  find("count").textContent = numbers.length ? `${numbers.length} of ${page.problems.length}` : "none of the problems";
  find("problems").replaceChildren(...numbers.map((number) => {
    const marks = columns.slice(0, 3).map((column, n) => {
      const right = rightIn(column, number);
      return make("span", { class: `mark ${right ? "right" : "wrong"}`, text: `${LETTERS[n]}${right ? "✓" : "✗"}` });
    });
    const label = make("span", { class: "label", text: page.labels[number] });
    const name = make("span", { text: `#${number + 1}` });
    const button = make("button", { type: "button", "data-number": number, on: { click: () => open(number) } }, name, label, ...marks);
    return make("li", {}, button);
  }));
}

async function open(number) {
  const mine = ++turn;
  pause();
  now.problem = number;
  await Promise.all(columns.map((column) => column.load(number)));
  if (mine !== turn) return;
  now.step = 0;
  for (const button of find("problems").querySelectorAll("button")) {
    const here = Number(button.dataset.number) === number;
    button.setAttribute("aria-current", here);
    if (here) nearest(button);
  }
  const long = page.drawing.kind === "sequence" && columns[0].board.positions.length > SHORT;
  find("columns").classList.toggle("sequences", long);
  const notes = page.problems[number].notes;
  find("notes").hidden = !notes.length;
  find("notes").open ||= notes.length <= FEW_NOTES && !now.visited;
  now.visited = true;
  find("notes").firstElementChild.textContent = `${page.words.notes} (${notes.length})`;
  find("notes").lastElementChild.replaceChildren(...notes.map((text) => make("li", { text })));
  draw();
}

/** Scroll the list, and nothing but the list, to a button. */
function nearest(button) {
  const list = find("problems").getBoundingClientRect();
  const item = button.getBoundingClientRect();
  if (item.top < list.top) find("problems").scrollTop += item.top - list.top - 4;
  else if (item.bottom > list.bottom) find("problems").scrollTop += item.bottom - list.bottom + 4;
}

function neighbour(by) {
  const numbers = matching(now.filter);
  const at = numbers.indexOf(now.problem);
  const next = numbers[at < 0 ? 0 : at + by];
  if (next !== undefined) open(next);
}

function goTo(step) {
  now.step = Math.max(0, Math.min(lastStep(), step));
  draw();
}

function draw() {
  const last = lastStep();
  find("step").max = last;
  find("step").value = now.step;
  find("step").setAttribute("aria-valuetext", `step ${now.step} of ${last}`);
  find("where").textContent = `step ${now.step} of ${last}`;
  for (const [id, off] of [["first", now.step === 0], ["back", now.step === 0], ["forth", now.step === last], ["last", now.step === last]]) {
    find(id).disabled = off;
  }
  columns.forEach((column) => column.show(now.step, last, now.chosen, now.shade));
}

function pause() {
  clearInterval(now.timer);
  now.timer = null;
  find("play").textContent = "▶ play";
}

function play() {
  if (now.timer) return pause();
  if (now.step >= lastStep()) goTo(0);
  find("play").textContent = "⏸ pause";
  now.timer = setInterval(() => {
    if (now.step >= lastStep()) return pause();
    goTo(now.step + 1);
  }, Number(find("speed").value));
}

function onKey(event) {
  const { target, key } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || target.closest("select")) return;
  const slider = target.id === "step";
  const acts = {
    ",": () => goTo(now.step - 1), ".": () => goTo(now.step + 1), n: () => neighbour(1), p: () => neighbour(-1),
  };
  if (!slider) {
    acts.ArrowLeft = acts[","];
    acts.ArrowRight = acts["."];
    acts.Home = () => goTo(0);
    acts.End = () => goTo(lastStep());
  }
  if (!target.closest("button, summary")) acts[" "] = play;
  if (!acts[key]) return;
  event.preventDefault();
  if (key !== " ") pause();
  acts[key]();
}

function listen() {
  const click = { first: () => goTo(0), back: () => goTo(now.step - 1), forth: () => goTo(now.step + 1), last: () => goTo(lastStep()) };
  for (const [id, act] of Object.entries(click)) find(id).addEventListener("click", () => { pause(); act(); });
  find("play").addEventListener("click", play);
  find("step").addEventListener("input", (event) => { pause(); goTo(Number(event.target.value)); });
  find("speed").addEventListener("change", () => { if (now.timer) { pause(); play(); } });
  find("shade").addEventListener("change", (event) => {
    now.shade = event.target.value;
    find("ramp-means").textContent = now.shade === "step" ? "step of the commitment, first to last" : "confidence, 0 to 100 %";
    draw();
  });
  find("filter").addEventListener("change", (event) => {
    now.filter = event.target.value;
    fillList();
    const numbers = matching(now.filter);
    if (numbers.length) open(numbers.includes(now.problem) ? now.problem : numbers[0]);
  });
  find("add").addEventListener("click", () => {
    const shown = new Set(columns.map((column) => column.run));
    addColumn(Math.max(0, page.runs.findIndex((_, n) => !shown.has(n))));
    changed();
  });
  find("problems").addEventListener("keydown", (event) => {
    const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const item = document.activeElement.closest("li");
    (by > 0 ? item?.nextElementSibling : item?.previousElementSibling)?.firstElementChild.focus();
  });
  document.addEventListener("keydown", onKey);
}

async function start() {
  setUpTheme();
  page = await unpack("page-data");
  if (page.results.length) drawPlots(page);
  if (!page.runs.length) return;
  find("watch").hidden = false;
  find("wrong-means").textContent = page.words.bad;
  page.opening.runs.forEach(addColumn);
  now.problem = page.opening.problem;
  find("add").hidden = page.runs.length < 2;
  listen();
  await changed();
  document.documentElement.dataset.ready = "yes";
}

start().catch((error) => {
  const needs = typeof DecompressionStream === "undefined" ? "This page needs a browser from 2023 or later." : "";
  find("trouble").textContent = `The page could not be drawn. ${needs} (${error.message})`;
  find("trouble").hidden = false;
});
