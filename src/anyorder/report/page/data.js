// What the page holds: blobs of gzipped JSON, and decodings replayed from their steps.

async function unpack(id) {
  const packed = atob(document.getElementById(id).textContent);
  const bytes = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

/** The decodes of run number n, unpacked once, when they are first wanted. */
const decodesOf = (() => {
  const kept = new Map();
  return (n) => {
    if (!kept.has(n)) kept.set(n, unpack(`run-${n}`));
    return kept.get(n);
  };
})();

/**
 * One decode as states: `states[t]` holds the tokens after t forward passes.
 *
 * `filledIn[t]`: for each position the forward pass, from 1, that committed its token; 0 where given or empty.
 * `sure[t]`: the denoiser's probability, 0 to 1, of each token: when it was committed, or of the likeliest one where empty.
 * `guess[t]`: the likeliest token of each empty position; -1 where there is none.
 * `steps[t - 1]` is what happened in forward pass t; `wrong[t - 1]` which of its commitments were mistakes.
 */
class Replay {
  constructor(page, problem, decode) {
    this.problem = problem;
    this.decode = decode;
    this.mask = page.mask;
    this.steps = decode.steps;
    this.last = decode.steps.length;
    this.dead = decode.dead_ends === null ? null : new Set(decode.dead_ends.map((step) => step + 1));
    this.reference = decode.correct && !page.drawing.symbols ? decode.tokens : problem.solution;
    this.states = [problem.tokens];
    this.filledIn = [problem.tokens.map(() => 0)];
    this.sure = [];
    this.guess = [];
    this.predicted = [];
    this.wrong = [];
    this.flagged = [new Set()];
    for (let t = 1; t <= this.last; t++) this.play(t);
    this.look(this.last);
  }

  /** What forward pass t saw, before it changed anything. */
  look(t) {
    const tokens = this.states[t];
    const sure = t ? this.sure[t - 1].slice() : tokens.map(() => 1);
    if (t) this.steps[t - 1].positions.forEach((at, n) => (sure[at] = this.probability(t, at, this.steps[t - 1].tokens[n])));
    const guess = tokens.map(() => -1);
    const step = this.steps[t];
    let predicted = [];
    if (step) {
      predicted = step.predicted ?? tokens.flatMap((token, at) => (token === this.mask ? [at] : []));
      predicted.forEach((at, k) => {
        if (tokens[at] !== this.mask) return;
        guess[at] = step.candidates.length ? step.candidates[0][k] : -1;
        sure[at] = step.candidates.length ? step.probabilities[0][k] / 1000 : 0;
      });
    }
    this.guess.push(guess);
    this.sure.push(sure);
    this.predicted.push(predicted);
  }

  play(t) {
    this.look(t - 1);
    const step = this.steps[t - 1];
    const tokens = this.states[t - 1].slice();
    const when = this.filledIn[t - 1].slice();
    const flagged = new Set(this.flagged[t - 1]);
    const wrong = [];
    step.positions.forEach((at, n) => {
      tokens[at] = step.tokens[n];
      when[at] = t;
      flagged.delete(at);
      if (this.isWrong(at, step.tokens[n], t)) {
        wrong.push(at);
        flagged.add(at);
      }
    });
    for (const at of step.remasked) {
      tokens[at] = this.mask;
      when[at] = 0;
      flagged.delete(at);
    }
    this.states.push(tokens);
    this.filledIn.push(when);
    this.flagged.push(flagged);
    this.wrong.push(wrong);
  }

  /**
   * Not the token of the known solution; if the task has a solver, only if no solution is left at all. Without a known solution,
   * the one cell that the solver names.
   */
  isWrong(at, token, t) {
    if (!this.reference) return this.decode.wrong === at && t === this.firstDead;
    if (this.reference[at] === token) return false;
    return this.dead === null || this.dead.has(t);
  }

  /** The probability that forward pass t gave to a token; 0 where it was not among the candidates that are kept. */
  probability(t, at, token) {
    const k = this.predicted[t - 1].indexOf(at);
    const step = this.steps[t - 1];
    const rank = k < 0 ? -1 : step.candidates.findIndex((row) => row[k] === token);
    return rank < 0 ? 0 : step.probabilities[rank][k] / 1000;
  }

  /** The forward pass with the first mistake, 0 for none. */
  get firstWrong() {
    return this.wrong.findIndex((list) => list.length) + 1;
  }

  /** The forward pass after which no solution is left for the first time, 0 for none. */
  get firstDead() {
    return this.dead && this.dead.size ? Math.min(...this.dead) : 0;
  }

  /** What forward pass t said of a position: candidates as [token, probability], the order's score and its rank; null if nothing. */
  proposal(t, at) {
    const k = t >= 1 && t <= this.last ? this.predicted[t - 1].indexOf(at) : -1;
    if (k < 0) return null;
    const step = this.steps[t - 1];
    const score = step.scores[k];
    const candidates = step.candidates.map((row, n) => [row[k], step.probabilities[n][k] / 1000]);
    const rank = 1 + step.scores.filter((other) => other !== null && score !== null && other > score).length;
    return { candidates: candidates.filter(([token]) => token >= 0), score, rank, of: step.scores.length };
  }
}
