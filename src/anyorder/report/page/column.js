// A column: one order on the chosen problem. Which order, its verdict, its steps as a strip, its board, and what was proposed.

class Column {
  /** `events`: run(number), step(t), choose(position), remove(). */
  constructor(page, letter, run, events) {
    this.page = page;
    this.run = run;
    const groups = new Map();
    const several = new Set(page.runs.map((each) => each.budget)).size > 1;
    page.runs.forEach((each, n) => {
      const option = make("option", { value: n, text: several ? `${each.order}, ${each.budget}` : each.order });
      groups.set(each.budget, [...(groups.get(each.budget) ?? []), option]);
    });
    this.select = make("select", { "aria-label": `order ${letter}`, on: { change: () => events.run(Number(this.select.value)) } },
      ...[...groups].map(([label, options]) => make("optgroup", { label }, ...options)));
    this.select.value = run;
    this.verdict = make("span", { class: "verdict" });
    this.strip = make("div", { class: "strip", role: "img" });
    this.board = new Board(page, `order ${letter}`, events.choose);
    this.status = make("p", { class: "status" });
    this.finds = make("ul", { class: "finds" });
    this.detail = make("div", { class: "detail", "aria-live": "polite" });
    const remove = make("button", { type: "button", class: "quiet", "aria-label": `remove order ${letter}`, text: "×", on: { click: events.remove } });
    remove.hidden = letter < "C";
    this.element = make("article", { class: "column", "aria-label": `order ${letter}` },
      make("header", {}, make("span", { class: "letter", text: letter }), this.select, this.verdict, remove),
      this.strip, this.status, this.board.element, this.finds, this.detail);
    this.events = events;
  }

  /** Take another problem. */
  async load(number) {
    const run = this.run;
    const decode = (await decodesOf(run))[number];
    if (run !== this.run) return; // another order was chosen while this one was unpacked
    this.replay = new Replay(this.page, this.page.problems[number], decode);
    this.board.lay(this.replay.problem);
    const { correct, nfe } = decode;
    const word = this.page.words[correct ? "right" : "wrong"];
    this.verdict.className = `verdict ${correct ? "right" : "wrong"}`;
    this.verdict.textContent = `${correct ? "✓" : "✗"} ${word}`;
    this.verdict.title = plural(nfe, "forward pass", "forward passes");
    this.drawFinds();
  }

  drawFinds() {
    const { replay, page } = this;
    const jump = (t, kind, text) =>
      make("li", { class: kind }, make("button", { type: "button", text, on: { click: () => this.events.step(t) } }));
    const items = [];
    if (replay.firstWrong) {
      const at = replay.wrong[replay.firstWrong - 1][0];
      const token = replay.states[replay.firstWrong][at];
      const what = replay.reference
        ? `${written(page, token)} in place of ${written(page, replay.reference[at])}`
        : `${written(page, token)}, with which no solution is left`;
      const more = replay.wrong[replay.firstWrong - 1].length - 1;
      items.push(jump(replay.firstWrong, "wrong",
        `${page.words.first}: step ${replay.firstWrong}, ${this.board.placeName(at)}, ${what}${more ? `, and ${more} more` : ""}`));
    }
    if (replay.firstDead) items.push(jump(replay.firstDead, "dead", `First dead end: after step ${replay.firstDead} no solution is left`));
    if (!items.length && (replay.reference || replay.dead)) items.push(make("li", { class: "muted", text: page.words.none }));
    this.finds.replaceChildren(...items);
  }

  /** Draw the state after t forward passes, or the last one. */
  show(t, last, chosen, shade) {
    const { replay } = this;
    const here = Math.min(t, replay.last);
    this.board.show(replay, here, chosen, shade);
    this.drawStrip(t, last);
    const step = replay.steps[here - 1];
    const empty = this.board.positions.filter((at) => replay.states[here][at] === replay.mask).length;
    const parts = [];
    if (t > replay.last) parts.push(`Finished after ${plural(replay.last, "forward pass", "forward passes")}`);
    else if (!step) parts.push("Nothing committed yet");
    else {
      const bad = replay.wrong[here - 1].length;
      parts.push(`Step ${here}: ${step.positions.length} committed${bad ? `, ${bad} ${this.page.words.bad}` : ""}`);
      if (step.remasked.length) parts.push(`${step.remasked.length} remasked`);
      if (!step.positions.length && !step.remasked.length) parts.push("nothing was changed");
    }
    parts.push(empty ? `${empty} empty` : "complete");
    if (replay.dead?.has(here)) parts.push("a dead end");
    this.status.textContent = parts.join("; ");
    this.drawDetail(here, chosen);
  }

  drawStrip(t, last) {
    const { replay } = this;
    const blocks = Array.from({ length: last }, (_, n) => {
      const step = replay.steps[n];
      const looks = step ? [] : ["absent"];
      if (n < t && step) looks.push("past");
      if (step && replay.wrong[n].length) looks.push("wrong");
      if (step?.remasked.length) looks.push("back");
      if (replay.dead?.has(n + 1)) looks.push("dead");
      if (n + 1 === Math.min(t, replay.last)) looks.push("now");
      const block = make("i", { class: looks.join(" "), on: { click: () => this.events.step(n + 1) } });
      return block;
    });
    this.strip.replaceChildren(...blocks);
    const found = [`${replay.last} steps`];
    if (replay.firstWrong) found.push(`${this.page.words.first.toLowerCase()} in step ${replay.firstWrong}`);
    if (replay.firstDead) found.push(`dead end from step ${replay.firstDead}`);
    this.strip.setAttribute("aria-label", found.join(", "));
  }

  drawDetail(t, at) {
    const { replay, page, board } = this;
    if (at === null || !board.positions.includes(at)) {
      this.detail.replaceChildren(make("p", { class: "muted", text: "Select a cell to see what the denoiser proposed there." }));
      return;
    }
    const [token, when] = [replay.states[t][at], replay.filledIn[t][at]];
    const place = board.placeName(at);
    const sentences = [`${place[0].toUpperCase()}${place.slice(1)}:`];
    if (token !== replay.mask && !when) sentences.push(`${written(page, token)} is given.`);
    else if (when) sentences.push(`${written(page, token)}, committed in step ${when}.`);
    else sentences.push("empty.");
    const solution = replay.problem.solution;
    if (solution && (token === replay.mask || when)) sentences.push(`Known solution: ${written(page, solution[at])}.`);
    const said = replay.proposal(when || t + 1, at);
    const out = [make("p", { text: sentences.join(" ") })];
    if (said) {
      const score = said.score === null ? "excluded by the order" : `score ${said.score}, rank ${said.rank} of ${said.of}`;
      out.push(make("p", { class: "muted", text: `${when ? "Then" : "The next forward pass"}: ${score}` }));
      for (const [candidate, p] of said.candidates) {
        out.push(make("div", { class: "bar" }, make("b", { text: written(page, candidate) }),
          make("i", { style: { "--width": `${100 * p}%` } }), make("span", { text: percent(p, 1) })));
      }
    }
    this.detail.replaceChildren(...out);
  }
}
