"""The tables and figures of "Adaptive Order Policies for Masked Diffusion" (arXiv 2606.00295) on Sudoku and 3-SAT.

Every target declares the decodings that it needs, and formats their results. Margin stands for two orders here: of
probabilities, and of log-probabilities. Under noise they behave very differently, and the published margin behaves like the
latter.
"""

from pathlib import Path

from anyorder.evaluation.tables import markdown_table
from anyorder.reproduce import published
from anyorder.reproduce.outcome import TASK_NAMES, Cells, Outcome, Solved, Target, difference, interval, percent, points
from anyorder.reproduce.study import Decoding, Setting
from anyorder.zoo import zoo_names

JOINT = {
    "uniform": "joint/uniform",
    "confidence": "joint/confidence",
    "margin": "joint/margin",
    "papl": "joint/papl",
    "policy": "joint/policy",
    "path": "joint-on-path/policy",
}
"""The model of each joint objective: plain L_MDM, the heuristic-aware controls, PAPL, eq. 4, and eq. 4 on the policy's path."""

OWN_ORDER = {
    "uniform": "confidence",
    "confidence": "confidence",
    "margin": "log_margin",
    "papl": "confidence",
    "policy": "policy",
    "path": "policy",
}
"""The order with which table 1 decodes each of these denoisers."""

ARCHITECTURES = ("mlp", "score_transformer", "score_hidden_transformer", "lookahead")
HEURISTIC_ROWS = ("confidence", "margin", "log_margin", "oracle")
NAMES = {
    "uniform": "baseline, L_MDM",
    "confidence": "high confidence",
    "margin": "margin",
    "papl": "PAPL (tau 1, alpha 1)",
    "policy": "policy (eq. 4)",
    "path": "policy (eq. 4), on states of its own path",
}


def _published(order: str) -> str:
    """The order whose published figures stand beside this one: the published margin behaves like that of log-probabilities."""
    return {"log_margin": "margin", "margin": ""}.get(order, order)


# ---- table 1: deterministic decoding, policy-only and joint, in both decoding modes -------------------------------------


def _table1_needs(settings: list[Setting], seeds: list[int], noise: bool = False) -> list[Decoding]:
    needs = []
    for s in settings:
        scales = (0.0, s.noise) if noise else (0.0,)
        modes = ("",) if noise else ("", "+repredict")
        for scale in scales:
            rows = tuple(order + mode for mode in modes for order in HEURISTIC_ROWS)
            needs.append(Decoding(s, "frozen", rows, s.steps, scale))
            for seed in seeds:
                policies = tuple("policy" + mode for mode in modes)
                needs.append(Decoding(s, f"policy/mlp/{seed}", policies, s.steps, scale))
                for name, joint in JOINT.items():
                    orders = tuple(OWN_ORDER[name] + mode for mode in modes)
                    needs.append(Decoding(s, f"{joint}/{seed}", orders, s.steps, scale))
                needs.append(Decoding(s, f"joint/uniform/{seed}", ("policy",), s.steps, scale))
    return needs


def _table1(settings: list[Setting], seeds: list[int], solved: Solved, folder: Path) -> Outcome:
    cells, values, parts = Cells(solved, seeds), {}, []
    header = ["order", *(f"{TASK_NAMES[s.task]}{mode}" for s in settings for mode in (", absorbing", ", re-predict"))]
    header += [f"published {TASK_NAMES[s.task]}" for s in settings]
    rows = []
    for order in (*HEURISTIC_ROWS, "policy"):
        model = "policy/mlp/{seed}" if order == "policy" else "frozen"
        found = [cells.of(s, model, order + mode) for s in settings for mode in ("", "+repredict")]
        paper = published.TABLE1_POLICY_ONLY.get(_published(order), {})
        rows.append([order, *map(percent, found), *(f"{paper.get(s.task, '')}" for s in settings)])
        values[f"policy-only {order}"] = [float(f.mean()) for f in found]
    parts.append("**Policy-only: a frozen denoiser**\n\n" + markdown_table(header, rows))
    rows = []
    for name, joint in JOINT.items():
        order = OWN_ORDER[name]
        found = [cells.of(s, f"{joint}/{{seed}}", order + mode) for s in settings for mode in ("", "+repredict")]
        paper = published.TABLE1_JOINT.get(name, {})
        label = f"{NAMES[name]}, decoded by {order}"
        rows.append([label, *map(percent, found), *(f"{paper.get(s.task, '')}" for s in settings)])
        values[f"joint {name}"] = [float(f.mean()) for f in found]
    header[0] = "training objective"
    parts.append("**Joint training from one common start, the same number of updates each**\n\n" + markdown_table(header, rows))
    rows = []
    for name, order in [(n, OWN_ORDER[n]) for n in JOINT if n != "policy"] + [("uniform", "policy")]:
        row = [f"{NAMES[name]}, decoded by {order}"]
        for s in settings:
            ours = cells.of(s, "joint/policy/{seed}", "policy")
            row.append(difference(ours, cells.of(s, f"{JOINT[name]}/{{seed}}", order)))
        rows.append(row)
    header = ["joint + policy minus", *(TASK_NAMES[s.task] for s in settings)]
    parts.append("**Differences, paired on the same puzzles and seeds (absorbing)**\n\n" + markdown_table(header, rows))
    return Outcome("Table 1: instance accuracy, deterministic decoding", "\n".join(parts), values)


# ---- table 3: deterministic against stochastic --------------------------------------------------------------------------


def _table3(settings: list[Setting], seeds: list[int], solved: Solved, folder: Path) -> Outcome:
    cells, values, parts = Cells(solved, seeds), {}, []
    header = ["order", *(f"{TASK_NAMES[s.task]}, {kind}" for s in settings for kind in ("deterministic", "stochastic"))]
    header += [f"published {TASK_NAMES[s.task]}" for s in settings]

    def row(name: str, model: str, order: str, paper: dict[str, tuple[float, float]]) -> list[str]:
        found = [cells.of(s, model, order, noise) for s in settings for noise in (0.0, s.noise)]
        values[name] = [float(f.mean()) for f in found]
        shown = [" / ".join(map(str, paper[s.task])) if s.task in paper else "" for s in settings]
        return [name, *map(percent, found), *shown]

    rows = []
    for order in (*HEURISTIC_ROWS, "policy"):
        model = "policy/mlp/{seed}" if order == "policy" else "frozen"
        paper = published.TABLE3_POLICY_ONLY.get(_published(order), {})
        rows.append(row(order, model, order, paper))
    parts.append("**Policy-only: a frozen denoiser**\n\n" + markdown_table(header, rows))
    header[0] = "training objective"
    rows = [
        row(f"{NAMES[n]}, decoded by {OWN_ORDER[n]}", f"{joint}/{{seed}}", OWN_ORDER[n], published.TABLE3_JOINT.get(n, {}))
        for n, joint in JOINT.items()
    ]
    parts.append("**Joint training**\n\n" + markdown_table(header, rows))
    header = ["joint + policy minus", *(f"{TASK_NAMES[s.task]}, stochastic" for s in settings)]
    rows = []
    for name in (n for n in JOINT if n != "policy"):
        pairs = [
            (
                cells.of(s, "joint/policy/{seed}", "policy", s.noise),
                cells.of(s, f"{JOINT[name]}/{{seed}}", OWN_ORDER[name], s.noise),
            )
            for s in settings
        ]
        rows.append([f"{NAMES[name]}, decoded by {OWN_ORDER[name]}", *(difference(a, b) for a, b in pairs)])
    parts.append("**Differences under noise, paired on the same puzzles and seeds**\n\n" + markdown_table(header, rows))
    return Outcome("Table 3: deterministic and stochastic decoding (Gumbel noise .5)", "\n".join(parts), values)


# ---- table 4: policy architectures --------------------------------------------------------------------------------------


def _table4_needs(settings: list[Setting], seeds: list[int]) -> list[Decoding]:
    (s,) = settings
    needs = [Decoding(s, "frozen", ("confidence", "oracle"), s.steps)]
    return needs + [Decoding(s, f"policy/{kind}/{seed}", ("policy",), s.steps) for kind in ARCHITECTURES for seed in seeds]


def _table4(settings: list[Setting], seeds: list[int], solved: Solved, folder: Path) -> Outcome:
    cells, rows, values = Cells(solved, seeds), [], {}
    (s,) = settings
    reference = cells.of(s, "frozen", "confidence")
    for kind in ARCHITECTURES:
        found = cells.of(s, f"policy/{kind}/{{seed}}", "policy")
        values[kind] = float(found.mean())
        rows.append([kind, percent(found), difference(found, reference), str(published.TABLE4.get(kind, ""))])
    for order in ("confidence", "oracle"):
        rows.append([f"({order})", percent(cells.of(s, "frozen", order)), "", ""])
    markdown = markdown_table(["policy, by L_ORDER", "Sudoku", "minus confidence", "published"], rows)
    return Outcome(f"Table 4: policy architectures on Sudoku, T = {s.steps}", markdown, values)


# ---- figure 2: does a policy-aware denoiser decode better by heuristics too? ---------------------------------------------

_TRANSFER = (("confidence", "confidence"), ("margin", "log_margin"))


def _figure2_needs(settings: list[Setting], seeds: list[int]) -> list[Decoding]:
    return [
        Decoding(s, f"joint/{weights}/{seed}", (order,), s.steps, noise)
        for s in settings
        for noise in (0.0, s.noise)
        for control, order in _TRANSFER
        for weights in (control, "policy", "uniform")
        for seed in seeds
    ]


def _figure2(settings: list[Setting], seeds: list[int], solved: Solved, folder: Path) -> Outcome:
    cells, rows, values, bars = Cells(solved, seeds), [], {}, {}
    for s in settings:
        for noise in (0.0, s.noise):
            kind = "stochastic" if noise else "deterministic"
            panel: dict[str, dict[str, tuple[float, float, float]]] = {}
            for control, order in _TRANSFER:
                trained = {"trained for this heuristic": control, "plain L_MDM": "uniform", "policy-aware": "policy"}
                found = {label: cells.of(s, f"joint/{w}/{{seed}}", order, noise) for label, w in trained.items()}
                for label, cell in found.items():
                    low, high = interval(cell)
                    panel.setdefault(order, {})[label] = (100 * float(cell.mean()), 100 * low, 100 * high)
                ours, against = found["policy-aware"], found["trained for this heuristic"]
                rows.append([TASK_NAMES[s.task], kind, order, *map(percent, found.values()), difference(ours, against)])
                values[f"{TASK_NAMES[s.task]} {kind} {order}"] = float(ours.mean())
            bars[f"{TASK_NAMES[s.task]}, {kind}"] = panel
    header = ["task", "decoding", "order", "trained for this heuristic", "plain L_MDM", "policy-aware"]
    markdown = markdown_table([*header, "policy-aware minus heuristic"], rows)
    return Outcome("Figure 2: heuristic decoding of denoisers trained for different orders", markdown, values, bars=bars)


# ---- figure 3: accuracy against the number of steps ----------------------------------------------------------------------


def _curves(setting: Setting) -> list[tuple[str, str, str]]:
    """(label, model, order) of each curve; the shipped policy if the denoiser is a shipped one."""
    curves = [(order, "frozen", order) for order in ("confidence", "log_margin", "oracle")]
    curves.append(("MLP policy, L_ORDER", "policy/mlp/{seed}", "policy"))
    return curves + ([("shipped policy", "frozen", "policy")] if setting.denoiser in zoo_names() else [])


def _figure3_needs(settings: list[Setting], seeds: list[int]) -> list[Decoding]:
    return [
        Decoding(s, name, (order,), steps)
        for s in settings
        for steps in s.figure_steps
        for _, model, order in _curves(s)
        for name in dict.fromkeys(model.format(seed=seed) for seed in seeds)
    ]


def _figure3(settings: list[Setting], seeds: list[int], solved: Solved, folder: Path) -> Outcome:
    cells, values, lines, parts = Cells(solved, seeds), {}, {}, []
    for s in settings:
        panel, rows = {}, []
        for label, model, order in _curves(s):
            found = [cells.of(s, model, order, steps=steps) for steps in s.figure_steps]
            rows.append([label, *map(percent, found)])
            values[f"{s.task} {label}"] = [float(f.mean()) for f in found]
            panel[label] = points(s.figure_steps, found)
        lines[TASK_NAMES[s.task]] = panel
        parts.append(f"**{TASK_NAMES[s.task]}**\n\n" + markdown_table(["order", *(f"T = {t}" for t in s.figure_steps)], rows))
    return Outcome("Figure 3: accuracy against the number of steps", "\n".join(parts), values, lines, "steps T")


_BOTH = ("sudoku", "sat")
TARGETS = {
    "table1": Target(_BOTH, _table1_needs, _table1, minutes=45),
    "table3": Target(_BOTH, lambda settings, seeds: _table1_needs(settings, seeds, noise=True), _table3),
    "table4": Target(("sudoku",), _table4_needs, _table4),
    "figure2": Target(_BOTH, _figure2_needs, _figure2),
    "figure3": Target(_BOTH, _figure3_needs, _figure3),
}
