// A board: the positions of one problem as a grid or a sequence, at one step of one decode.

const AMINO_ACIDS = {
  hydrophobic: "AVLIM", aromatic: "FWYH", polar: "STNQ", positive: "KR", negative: "DE", special: "CGP",
};

/** The class that colors a token of a sequence. */
function kindOf(symbols, text) {
  if (symbols === "amino acids") {
    const kind = Object.keys(AMINO_ACIDS).find((name) => text.length === 1 && AMINO_ACIDS[name].includes(text));
    return kind ? `kind-${kind}` : "kind-quiet";
  }
  if (symbols === "smiles") {
    if (/^\[?[nN]/.test(text)) return "kind-positive";
    if (/^\[?[oO]/.test(text)) return "kind-negative";
    if (/^\[?[sSpP]/.test(text)) return "kind-hydrophobic";
    if (/^(F|Cl|Br|I)$/.test(text)) return "kind-polar";
    return /^\[?[cC]/.test(text) ? "" : "kind-aromatic";
  }
  if (symbols === "text") return /^\s*[\p{L}\p{N}]/u.test(text) ? "" : "kind-quiet";
  return "";
}

class Board {
  /** `choose(position)` is called when a cell is clicked or reached by arrow keys. */
  constructor(page, name, choose) {
    this.page = page;
    this.choose = choose;
    const grid = page.drawing.kind === "grid";
    this.body = make("div", { class: grid ? "grid" : "sequence", role: "grid", "aria-label": name });
    this.element = make("div", { class: "board", tabindex: "0", on: { keydown: (event) => this.key(event) } }, this.body);
    this.columns = grid ? page.drawing.columns : 0;
  }

  /** The cells of a problem. */
  lay(problem) {
    const { drawing, hidden } = this.page;
    const all = problem.tokens.map((_, at) => at).filter((at) => !hidden.includes(problem.tokens[at]));
    this.positions = drawing.cells ?? all;
    this.cells = this.positions.map((at, n) =>
      make("div", { class: "cell", role: "gridcell", on: { click: () => this.choose(at) } },
        make("span"), make("span", { class: "when", "aria-hidden": "true" })));
    this.body.replaceChildren(...(drawing.kind === "grid" ? this.rows() : [make("div", { class: "row", role: "row" }, ...this.cells)]));
    if (drawing.kind !== "grid") this.cells.forEach((cell, n) => n % 10 === 9 && cell.setAttribute("data-tick", n + 1));
  }

  rows() {
    const { rows, columns, box, row_names: rowNames, column_names: columnNames } = this.page.drawing;
    const named = rowNames ? "auto " : "";
    this.body.style.setProperty("--columns", columns + (rowNames ? 1 : 0));
    this.body.style.gridTemplateColumns = `${named}repeat(${columns}, minmax(0, 1fr))`;
    this.body.classList.toggle("wide", Object.values(this.page.texts).some((text) => text.length > 1));
    const out = [];
    const head = (text, role) => make("div", { class: "name", role, text });
    if (columnNames) {
      const heads = columnNames.map((text) => head(text, "columnheader"));
      out.push(make("div", { class: "row", role: "row" }, ...(rowNames ? [head("", "presentation")] : []), ...heads));
    }
    for (let row = 0; row < rows; row++) {
      const cells = this.cells.slice(row * columns, (row + 1) * columns);
      cells.forEach((cell, column) => {
        cell.classList.toggle("box-right", Boolean(box) && column % box === box - 1 && column < columns - 1);
        cell.classList.toggle("box-below", Boolean(box) && row % box === box - 1 && row < rows - 1);
      });
      out.push(make("div", { class: "row", role: "row" }, ...(rowNames ? [head(rowNames[row], "rowheader")] : []), ...cells));
    }
    return out;
  }

  /** What a position is called. */
  placeName(at) {
    const n = this.positions.indexOf(at);
    const { kind, columns, row_names: rows, column_names: names } = this.page.drawing;
    if (kind !== "grid") return `position ${n + 1}`;
    const [row, column] = [Math.floor(n / columns), n % columns];
    return `row ${rows ? rows[row] : row + 1}, ${names ? names[column] : `column ${column + 1}`}`;
  }

  /** Draw the state after t forward passes. */
  show(replay, t, chosen, shade) {
    const { page } = this;
    const step = replay.steps[t - 1];
    const taken = new Map((step?.remasked ?? []).map((at) => [at, replay.states[t - 1][at]]));
    const first = replay.firstWrong && t >= replay.firstWrong ? new Set(replay.wrong[replay.firstWrong - 1]) : new Set();
    this.positions.forEach((at, n) => {
      const cell = this.cells[n];
      const [token, when] = [replay.states[t][at], replay.filledIn[t][at]];
      const empty = token === replay.mask;
      const given = !empty && !when;
      const wrong = replay.flagged[t].has(at);
      const text = written(page, empty ? (taken.get(at) ?? replay.guess[t][at]) : token);
      const keep = ["box-right", "box-below"].filter((name) => cell.classList.contains(name));
      const looks = {
        given, masked: empty, filled: Boolean(when), new: when === t && t > 0 && Boolean(when), wrong,
        first: wrong && first.has(at) && when === replay.firstWrong, taken: taken.has(at), chosen: at === chosen,
      };
      const kind = empty ? "" : kindOf(page.drawing.symbols, page.texts[token]);
      cell.className = ["cell", ...keep, ...Object.keys(looks).filter((name) => looks[name]), kind].join(" ").trim();
      cell.firstChild.textContent = text;
      cell.firstChild.className = empty ? "ghost" : "";
      cell.lastChild.textContent = when || "";
      const share = shade === "step" && !empty ? when / Math.max(1, replay.last) : replay.sure[t][at];
      cell.style.setProperty("--share", given ? 0 : share);
      const said = empty ? `empty, likeliest ${text || "unknown"}` : given ? `${text}, given` : `${text}, step ${when}`;
      cell.setAttribute("aria-label", `${this.placeName(at)}: ${said}${wrong ? ", wrong" : ""}${taken.has(at) ? ", remasked" : ""}`);
      cell.setAttribute("aria-selected", at === chosen);
    });
  }

  key(event) {
    const wide = this.columns || 10;
    const move = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -wide, ArrowDown: wide }[event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    const now = this.cells.findIndex((cell) => cell.classList.contains("chosen"));
    const next = now < 0 ? 0 : now + move;
    if (next >= 0 && next < this.cells.length) this.choose(this.positions[next]);
  }
}
