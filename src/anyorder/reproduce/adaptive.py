"""The tables and figures of "Adaptive Order Policies for Masked Diffusion" (arXiv 2606.00295) on Sudoku and 3-SAT.

Every target declares the decodings that it needs, and formats their results. Margin stands for two orders here: of
probabilities, and of log-probabilities. Under noise they behave very differently, and the published margin behaves like the
latter.
"""

from functools import partial
from pathlib import Path

from anyorder.evaluation.tables import markdown_table
from anyorder.reproduce import published, stochastic
from anyorder.reproduce.outcome import TASK_NAMES, Cells, Outcome, Solved, Target, difference, interval, percent, points
from anyorder.reproduce.stochastic import MODES, PLOTTED, NoiseStudy, Row, by_mode
from anyorder.reproduce.study import VARIANTS, Decoding, Setting
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


def _table1_needs(settings: list[Setting], seeds: list[int]) -> list[Decoding]:
    needs, modes = [], ("", "+repredict")
    for s in settings:
        needs.append(Decoding(s, "frozen", tuple(order + mode for mode in modes for order in HEURISTIC_ROWS), s.steps))
        for seed in seeds:
            needs.append(Decoding(s, f"policy/mlp/{seed}", tuple("policy" + mode for mode in modes), s.steps))
            for name, joint in JOINT.items():
                orders = tuple(OWN_ORDER[name] + mode for mode in modes)
                needs.append(Decoding(s, f"{joint}/{seed}", orders, s.steps))
            needs.append(Decoding(s, f"joint/uniform/{seed}", ("policy",), s.steps))
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


# ---- table 3: deterministic against stochastic, see `stochastic` ---------------------------------------------------------

JOINT_ROWS = (
    *(
        Row(f"{NAMES[name]}, decoded by {OWN_ORDER[name]}", f"{joint}/{{seed}}", OWN_ORDER[name], published=name)
        for name, joint in JOINT.items()
    ),
    Row("baseline, L_MDM, decoded by its policy", "joint/uniform/{seed}", "policy"),
)
_OURS = JOINT_ROWS[list(JOINT).index("policy")]


def _table3(settings: list[Setting], seeds: list[int], solved: Solved, folder: Path) -> Outcome:
    return stochastic.layout(settings, seeds, solved, JOINT_ROWS, _OURS)


# ---- table 4: policy architectures --------------------------------------------------------------------------------------

_TABLE4 = (
    Row("confidence", "frozen", "confidence"),
    Row("oracle", "frozen", "oracle"),
    Row("untrained, start at confidence", "untrained/mlp/0", "policy"),
    *(Row(f"{kind}, start at confidence", f"policy/{kind}/{{seed}}", "policy", published=kind) for kind in ARCHITECTURES),
    *(
        Row(f"{kind.replace('-', ', ')}", f"policy/{kind}/{{seed}}", "policy", published=kind.partition("-")[0])
        for kind in VARIANTS
    ),
)


def _table4_needs(settings: list[Setting], seeds: list[int]) -> list[Decoding]:
    return [need for s in settings for row in _TABLE4 for need in row.needs(s, seeds)]


def _table4(settings: list[Setting], seeds: list[int], solved: Solved, folder: Path) -> Outcome:
    (s,), cells = settings, Cells(solved, seeds)
    table = by_mode(cells, s, _TABLE4, published.TABLE4)
    rows = []
    for row in _TABLE4[2:]:
        gaps = [difference(row.of(cells, s, mode), _TABLE4[0].of(cells, s, mode)) for mode in MODES]
        rows.append([row.label, *gaps])
    against = markdown_table(["minus confidence", *(mode.name for mode in MODES)], rows)
    values = {row.label: [float(row.of(cells, s, mode).mean()) for mode in MODES] for row in _TABLE4}
    return Outcome(f"Table 4: policy architectures on Sudoku, T = {s.steps}", f"{table}\n{against}", values)


# ---- figure 2: does a policy-aware denoiser decode better by heuristics too? ---------------------------------------------

_TRANSFER = {"confidence": "confidence", "margin": "log_margin"}
_TRAINED = {"trained for this heuristic": "", "plain L_MDM": "uniform", "policy-aware": "policy"}


def _transfer_row(heuristic: str, weights: str) -> Row:
    return Row(weights, f"joint/{weights or heuristic}/{{seed}}", _TRANSFER[heuristic])


def _figure2_needs(settings: list[Setting], seeds: list[int]) -> list[Decoding]:
    rows = [_transfer_row(heuristic, weights) for heuristic in _TRANSFER for weights in _TRAINED.values()]
    return [need for s in settings for row in rows for need in row.needs(s, seeds)]


def _figure2(settings: list[Setting], seeds: list[int], solved: Solved, folder: Path) -> Outcome:
    cells, rows, values, bars = Cells(solved, seeds), [], {}, {}
    for s in settings:
        for mode in MODES:
            panel: dict[str, dict[str, tuple[float, float, float]]] = {}
            for heuristic, order in _TRANSFER.items():
                found = {label: _transfer_row(heuristic, w).of(cells, s, mode) for label, w in _TRAINED.items()}
                for label, cell in found.items():
                    low, high = interval(cell)
                    panel.setdefault(order, {})[label] = (100 * float(cell.mean()), 100 * low, 100 * high)
                ours, against = found["policy-aware"], found["trained for this heuristic"]
                rows.append([TASK_NAMES[s.task], mode.name, order, *map(percent, found.values()), difference(ours, against)])
                values[f"{TASK_NAMES[s.task]} {mode.name} {order}"] = float(ours.mean())
            if mode in PLOTTED:
                bars[f"{TASK_NAMES[s.task]}, {mode.name}"] = panel
    header = ["task", "decoding", "order", *_TRAINED, "policy-aware minus heuristic"]
    title = "Figure 2: heuristic decoding of denoisers trained for different orders"
    return Outcome(title, markdown_table(header, rows), values, bars=bars)


# ---- figure 3: accuracy against the number of steps ----------------------------------------------------------------------


def _curves(setting: Setting) -> list[Row]:
    """The curves; the shipped policy if the denoiser is a shipped one."""
    rows = [Row(order, "frozen", order) for order in ("confidence", "log_margin", "oracle")]
    rows.append(Row("MLP policy, L_ORDER", "policy/mlp/{seed}", "policy"))
    rows.append(Row("MLP as published, L_ORDER", "policy/mlp-published/{seed}", "policy"))
    return rows + ([Row("shipped policy", "frozen", "policy")] if setting.denoiser in zoo_names() else [])


def _figure3_needs(settings: list[Setting], seeds: list[int]) -> list[Decoding]:
    return [need for s in settings for t in s.figure_steps for row in _curves(s) for need in row.needs(s, seeds, steps=t)]


def _figure3(settings: list[Setting], seeds: list[int], solved: Solved, folder: Path) -> Outcome:
    cells, values, lines, parts = Cells(solved, seeds), {}, {}, []
    for s in settings:
        for mode in MODES:
            name, panel, rows = f"{TASK_NAMES[s.task]}, {mode.name}", {}, []
            for row in _curves(s):
                found = [row.of(cells, s, mode, steps) for steps in s.figure_steps]
                rows.append([row.label, *map(percent, found)])
                values[f"{name} {row.label}"] = [float(f.mean()) for f in found]
                panel[row.label] = points(s.figure_steps, found)
            if mode in PLOTTED:
                lines[name] = panel
            parts.append(f"**{name}**\n\n" + markdown_table(["order", *(f"T = {t}" for t in s.figure_steps)], rows))
    return Outcome("Figure 3: accuracy against the number of steps", "\n".join(parts), values, lines, "steps T")


_BOTH = ("sudoku", "sat")
TARGETS = {
    "table1": Target(_BOTH, _table1_needs, _table1, minutes=45),
    "table3": Target(_BOTH, partial(stochastic.needs, joint=JOINT_ROWS), _table3, NoiseStudy),
    "table4": Target(("sudoku",), _table4_needs, _table4, NoiseStudy),
    "figure2": Target(_BOTH, _figure2_needs, _figure2, NoiseStudy),
    "figure3": Target(_BOTH, _figure3_needs, _figure3, NoiseStudy),
}
