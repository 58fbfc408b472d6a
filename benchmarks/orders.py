"""All orders, count rules, remaskers and learned planners in one table: same model, same problems, forward passes and compute.

    anyorder fetch moses; anyorder fetch antiberty
    python benchmarks/orders.py [--only sudoku9,moses] [--limit 300] [--runs runs/orders] [--workers 2]

Every sampler has the same budget of steps on a model; an order that looks ahead costs more forward passes, and an adaptive
rule fewer, and is filled up to the even pace of the budget where it would be slower. Learned planners are trained first, each
on the same number of states (`--states`): sequences that the denoiser predicts once, rollouts and look-aheads included.
"Compute" is that of denoiser and policy for one sequence, in millions of multiply-adds. Tests are McNemar's, against
`confidence` on the same problems; intervals are Wilson's, at 95 %.

Results are kept in `--runs`, one file per cell, and what is there is not computed again; `--print` only prints. `--seconds`
starts nothing new after so many, `--no-train` trains none. Of molecules and antibodies the texts are kept, so that they can be
checked elsewhere.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import MISSING, dataclass, field
from itertools import zip_longest
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import anyorder
from anyorder import Sampler, load_order
from anyorder.decoding.combined_counts import Deadline
from anyorder.decoding.dependence import DependencyGuided
from anyorder.decoding.tokens import Argmax, Sample
from anyorder.errors import BadInput
from anyorder.evaluation.batches import decode_in_batches
from anyorder.evaluation.statistics import mcnemar, paired_interval, wilson
from anyorder.evaluation.tables import p_text
from anyorder.files import find_file, write_json
from anyorder.registry import COUNT_RULES, ORDERS, REMASKERS, Registry
from anyorder.tasks import Instances
from anyorder.training.fit import run_recipe
from anyorder.training.recipes import validate_recipe

PROBLEMS, BATCH, AGAINST, PACED = 8_000_000, 64, "confidence", "filled up"


@dataclass(frozen=True)
class Arena:
    """A model, how its problems are made, and how it is decoded.

    Args:
        steps: budget.
        generate: options of the problems.
        train: options of the training problems; None if nothing is trained on this model.
        temperature: of the tokens.
        heads: of lookahead policies.
        checked: whether rewards that check sequences can be computed by the standard library and PyTorch alone.
        width: of the policies.
    """

    steps: int
    generate: dict[str, Any]
    train: dict[str, Any] | None = None
    temperature: float = 0.0
    heads: tuple[str, ...] = ("everything",) * 4
    checked: bool = True
    width: int = 96


BOX = ("row", "row", "column", "column", "box", "box", "everything", "everything")
ARENAS = {
    "sudoku9": Arena(10, {"givens": 0}, {"size": 4000, "options": {"givens": 0}}, heads=BOX),
    "sudoku4-weak": Arena(
        8, {"givens": 8, "unique": False}, {"size": 4000, "options": {"givens": 8, "unique": False}}, heads=BOX
    ),
    "moses": Arena(20, {"length": 40}, {"size": 20000, "file": "moses/train.smi"}, temperature=1.0, checked=False),
    "antiberty": Arena(8, {"length": 118}, temperature=1.0),
}  # fmt: skip
NOT_MEANT = {
    "policy": "stands for the learned orders below", "gt_margin_planner": "listed below", "demask": "listed below",
    "eoser": "these sequences have no end that is generated", "even_blocks": "for blocks", "two_phase": "part of undo",
    "deadline": "wraps another rule",
    "number_of": "wraps another rule", "bernoulli": "for scores that are log-odds", "plackett_luce": "for learned scores",
    "dynamic_plackett_luce": "for learned scores", "score_threshold": "for scores that are log-odds",
    "predicted_error": "for scores that are log-odds", "none": "all rows without a plus", "linear": "all rows without an @",
    "fixed": "the same as linear at a budget of one position per step", "ancestral": "as timesteps, but a drawn number",
}  # fmt: skip


@dataclass(frozen=True)
class Planner:
    """A learned order: sections of its recipe, and the samplers that use it, with FOLDER in place of its folder.

    Args:
        recipe: sections; those that are missing are the same for all.
        samplers: names of rows, and what they decode with.
        passes: denoiser passes per training state, 1 or more.
        after: the planner that it starts from.
        checks: whether its reward checks sequences.
    """

    recipe: dict[str, Any]
    samplers: dict[str, str]
    passes: int = 1
    after: str = ""
    checks: bool = False

    @property
    def tunes(self) -> bool:
        """Whether the denoiser is trained as well."""
        return bool(self.recipe.get("train_denoiser"))


def planners(arena: Arena, hidden: int) -> dict[str, Planner]:
    """The learned planners for a model whose hidden states are `hidden` wide."""
    look = {"architecture": "lookahead", "width": arena.width, "layers": 1, "heads": list(arena.heads)}
    mlp, head = {"architecture": "mlp"}, {"architecture": "mlp", "width": round(0.8e6 / (hidden + 2))}

    def order(policy: dict[str, Any], name: str, states: str, **objective: Any) -> dict[str, Any]:
        return {"kind": "order", "policy": policy, "objective": {"name": name, "states": states, "critic": False, **objective}}

    def reward(policy: str, actions: str, name: str, update: dict[str, Any], **of_reward: Any) -> dict[str, Any]:
        rollout = {"actions": actions, "group_size": 8, "steps": [arena.steps, arena.steps]}
        if arena.temperature:
            rollout["token_temperature"] = arena.temperature
        return {
            "kind": "reward", "policy": {"architecture": policy}, "rollout": rollout, "reward": {"name": name, **of_reward},
            "update": {"inner": 2, "standardize": actions != "bernoulli", **update},
        }  # fmt: skip

    imitation = {"imitation": 1_000_000}
    tuned = {"kind": "order", "train_denoiser": True, "joint": {
        "freeze_policy": True, "weights": "uniform", "lr_scale": 0.1, "decode_every": 0}}  # fmt: skip
    return {
        "adaptive": Planner(order(mlp, "order", "uniform"), {"L_ORDER, mlp": "FOLDER"}),
        "correctness": Planner(order(look, "correctness", "model"), {"correctness, lookahead": "FOLDER"}),
        "rank": Planner(order(look, "rank", "model"), {"rank, lookahead": "FOLDER"}),
        "gt_margin": Planner(
            order(look | {"drawn": True}, "gt_margin", "teacher", path="gt_margin"),
            {"Gt-Margin planner": "gt_margin_planner:0.5:FOLDER", "Gt-Margin planner to the end": "FOLDER"},
        ),
        "ontrack": Planner(order(head, "correctness", "teacher", path="confidence"), {"OnTrack head": "FOLDER"}),
        "pairwise": Planner(
            order({"architecture": "pairwise"}, "correctness", "model", influence_weight=10.0),
            {"confidence, DEMASK": "confidence@demask", "learned order, DEMASK": "FOLDER@demask"}, passes=2,
        ),
        "lo_arm": Planner(order(mlp, "lo_arm", "teacher"), {"LO-ARM": "FOLDER"}, passes=3),
        "upo": Planner(
            reward("upo", "plackett_luce", "cells", {"reference": "confidence", "beta": 0.005, "imitation": 10}),
            {"UPO": "FOLDER"}, checks=True,
        ),
        "jazbec": Planner(
            reward("confidence_transformer", "bernoulli", "solved", {"imitation": 20, "imitate_level": 0.9}, speed=1.0),
            {"Jazbec et al.": "FOLDER@bernoulli:0"}, checks=True,
        ),
        "dultra_start": Planner(
            reward("dultra", "bernoulli", "likelihood", imitation | {"imitate_count": "factor:1"}),
            {"dUltra, imitation alone": "FOLDER@bernoulli:0"},
        ),
        "dultra": Planner(
            reward("dultra", "bernoulli", "solved", {}, step_cost=0.02), {"dUltra": "FOLDER@bernoulli:0"},
            after="dultra_start", checks=True,
        ),
        "sas": Planner(reward("mlp", "plackett_luce", "likelihood", {}), {"SAS": "FOLDER"}),
        "sas_paths": Planner(
            tuned | {"objective": {"name": "order", "states": "teacher", "critic": False}},
            {"SAS, denoiser tuned on its paths": "policy", "confidence, the same denoiser": "confidence"}, after="sas",
        ),
        "sas_uniform": Planner(
            tuned | {"objective": {"name": "order", "states": "uniform", "critic": False}},
            {"SAS, denoiser tuned on uniform states": "policy", "confidence, that denoiser": "confidence"}, after="sas",
        ),
    }  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """What the command line says."""

    runs: Path
    limit: int
    states: int
    device: str
    only: tuple[str, ...] = field(default=tuple(ARENAS))
    train: bool = True


# ---- problems ----------------------------------------------------------------------------------------------------------------


def data(bench: Bench, name: str) -> tuple[Any, Instances]:
    """The task of a model, and the problems that are decoded."""
    task: Any = anyorder.task_for(anyorder.load_denoiser(name, device="cpu"))
    path = bench.runs / name / "problems.csv"
    if "length" in ARENAS[name].generate:
        return task, task.generate(bench.limit, PROBLEMS, **ARENAS[name].generate)
    if not path.exists():
        write_problems(task.generate(1000, PROBLEMS, **ARENAS[name].generate), path)
    return task, task.load(path, limit=bench.limit)


def training_data(bench: Bench, name: str) -> dict[str, Any]:
    """The section `[data]` of the recipes: a file, so that problems are made once."""
    told = dict(ARENAS[name].train or {})
    path = bench.runs / name / ("train.smi" if "file" in told else "train.csv")
    if not path.exists() and "file" not in told:
        task: Any = anyorder.task_for(anyorder.load_denoiser(name, device="cpu"))
        write_problems(task.generate(told["size"], 11, **told["options"]), path)
    if not path.exists():
        source = find_file(told["file"]).read_text().splitlines()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(line.split(",")[0] for line in source[: told["size"] + 1]) + "\n")
    return {"size": told["size"], "file": str(path)}


def write_problems(problems: Instances, path: Path) -> None:
    """Puzzles and solutions as a table."""
    assert problems.x0 is not None
    rows = ["".join(map(str, row)) for table in (problems.tokens, problems.x0) for row in table.tolist()]
    half = len(rows) // 2
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["puzzle,solution", *(f"{a},{b}" for a, b in zip(rows[:half], rows[half:], strict=True))]) + "\n")


# ---- training ----------------------------------------------------------------------------------------------------------------


def folder_of(bench: Bench, name: str, planner: str) -> Path:
    return bench.runs / name / f"planners-{bench.states}" / planner


def trained(bench: Bench, name: str, planner: str) -> bool:
    folder = folder_of(bench, name, planner)
    return (folder / "model.safetensors").exists()


def fit(bench: Bench, name: str, planner: str) -> str:
    """Train a planner on a model; see `planners` for how."""
    arena, denoiser = ARENAS[name], anyorder.load_denoiser(name, device="cpu")
    task, plan = anyorder.task_for(denoiser), planners(arena, int(denoiser.hidden_size))[planner]
    values: dict[str, Any] = {
        "denoiser": name, "seed": 0, "data": training_data(bench, name),
        "task": {"name": task.name, "options": {k: v for k, v in task.options.items() if isinstance(v, int | float | str)}},
        "optimizer": {"lr": 1e-3, "warmup_steps": 20, "schedule": "linear"},
    } | plan.recipe  # fmt: skip
    if plan.recipe["kind"] == "order":
        values["run"] = {"steps": max(1, bench.states // (BATCH * plan.passes)), "batch_size": BATCH}
    else:
        rounds = max(1, bench.states // (BATCH * arena.steps))
        values["run"] = {"steps": rounds * values["update"]["inner"], "batch_size": BATCH}
        values["optimizer"] |= {"clip_norm": 0.2}
    if plan.after:
        values["start"] = str(folder_of(bench, name, plan.after))
        values.pop("policy", None)
    run_recipe(validate_recipe(values, planner), folder_of(bench, name, planner))
    return f"{name}: {planner} is trained"


# ---- cells -------------------------------------------------------------------------------------------------------------------


def plain(registry: Registry) -> Iterator[str]:
    """The parts of a registry that are written without arguments."""
    for entry in registry.entries():
        if entry.name not in NOT_MEANT and all(argument.default is not MISSING for argument in entry.arguments):
            yield entry.name


def rows(bench: Bench, name: str) -> dict[str, tuple[str, str]]:
    """Every row of a model: what decodes, and the planner that it belongs to, "" for none."""
    same = () if ARENAS[name].temperature else ORDERS.names(twin=True)
    found = {order: (order, "") for order in plain(ORDERS) if order not in same}
    events = {"first_hitting": f"first_hitting:{ARENAS[name].steps}"}
    for rule in plain(COUNT_RULES):
        adaptive = "heuristic" in COUNT_RULES.entry(rule).facts.get("curve_for", ())
        text = f"confidence@{events.get(rule, rule)}"
        found[f"{text}, {PACED}" if adaptive else text] = (text, "")
    found |= {f"confidence+{remasker}": (f"confidence+{remasker}", "") for remasker in plain(REMASKERS)}
    denoiser = anyorder.load_denoiser(name, device="cpu")
    if getattr(denoiser, "own_order", None):
        found["the shipped order"] = ("policy", "")
        found["the shipped order+undo"] = ("policy+undo", "")
    for planner, plan in planners(ARENAS[name], int(denoiser.hidden_size)).items() if wanted(name) else ():
        found |= {label: (text, planner) for label, text in plan.samplers.items() if planner in wanted(name)}
    return found


def wanted(name: str) -> list[str]:
    """The planners that are trained on a model."""
    arena = ARENAS[name]
    if arena.train is None:
        return []
    return [planner for planner, plan in planners(arena, 1).items() if arena.checked or not plan.checks]


def cell_path(bench: Bench, name: str, label: str) -> Path:
    safe = "".join(letter if letter.isalnum() else "-" for letter in label)
    return bench.runs / name / "cells" / f"{safe}-{ARENAS[name].steps}-{bench.limit}-{bench.states}.json"


def sampler_of(bench: Bench, name: str, label: str, denoiser: Any) -> Sampler:
    """The sampler of a row, bound to its denoiser."""
    text, planner = rows(bench, name)[label]
    arena, folder = ARENAS[name], str(folder_of(bench, name, planner))
    token = Sample(arena.temperature) if arena.temperature else Argmax()
    sampler = Sampler.parse(text.replace("FOLDER", folder), token=token, steps=arena.steps)
    if text == "confidence@demask":
        sampler = sampler.replace(count=DependencyGuided(planner=load_order(folder, denoiser)))
    if label.endswith(PACED):
        sampler = sampler.replace(count=Deadline(sampler.count))
    return sampler.bind(denoiser)


def measure(bench: Bench, name: str, label: str) -> str:
    """Decode the problems of a model with the sampler of a row, and keep what came out."""
    torch.set_num_threads(1)
    text, planner = rows(bench, name)[label]
    task, problems = data(bench, name)
    tuned = planner and planners(ARENAS[name], 1)[planner].tunes
    source = str(folder_of(bench, name, planner)) if tuned else name
    extra: dict[str, Any] = {"attn_implementation": "eager"} if name == "antiberty" and "dapd" in text else {}
    try:
        denoiser = anyorder.load_denoiser(source, device=bench.device, **extra)
        sampler = sampler_of(bench, name, label, denoiser)
        began = time.monotonic()
        out = decode_in_batches(denoiser, problems, sampler, seed=1, batch_size=256, progress=None, name=label).to("cpu")
        seconds = time.monotonic() - began
        slow = anyorder.load_denoiser(source, device="cpu", **extra)
        compute = multiply_adds(slow, problems[torch.arange(1)], sampler_of(bench, name, label, slow))
    except BadInput as error:
        write_json(cell_path(bench, name, label), {"refused": str(error)})
        return f"{name}: {label} is refused"
    kept: dict[str, Any] = {"nfe": out.nfe.tolist(), "per_pass": compute, "seconds": seconds}
    if "length" in ARENAS[name].generate:
        kept["texts"] = task.texts(problems, out.tokens)
    else:
        kept["right"] = task.check(problems, out.tokens).instance_correct.int().tolist()
    write_json(cell_path(bench, name, label), kept)
    return f"{name}: {label} in {seconds:.1f} s"


def multiply_adds(denoiser: Any, problems: Instances, sampler: Sampler) -> float:
    """Multiply-adds of denoiser and policy per forward pass of one sequence, on the CPU."""
    with FlopCounterMode(display=False) as counted, sdpa_kernel(SDPBackend.MATH):
        out = anyorder.decode(denoiser, problems.tokens, sampler, seeds=1, x0=problems.x0)
    return float(counted.get_total_flops() / 2 / int(out.nfe.sum()))


# ---- the table ---------------------------------------------------------------------------------------------------------------


def table(bench: Bench, name: str) -> list[str]:
    """The lines of a model, in the order of `rows`."""
    task, cells, refused = data(bench, name)[0], {}, []
    for label in rows(bench, name):
        path = cell_path(bench, name, label)
        if not path.exists():
            continue
        cell = json.loads(path.read_text())
        if "refused" in cell:
            refused.append(label)
            continue
        right = cell["right"] if "right" in cell else task.valid(cell["texts"])
        cells[label] = cell | {"right": np.array(right, dtype=bool)}
    if AGAINST not in cells:
        return [f"{name}: `{AGAINST}` is not measured yet"]
    lines, base = [], cells[AGAINST]["right"]
    for label, cell in cells.items():
        right, nfe = cell["right"], float(np.mean(cell["nfe"]))
        low, high = wilson(int(right.sum()), len(right))
        gain = paired_interval(right, base)
        test = "" if label == AGAINST else (
            f"{100 * (right.mean() - base.mean()):+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
        )  # fmt: skip
        p = "" if label == AGAINST else p_text(mcnemar(right, base)).removeprefix("p = ").removeprefix("p ")
        compute = nfe * cell["per_pass"] / 1e6
        lines.append(
            f"| `{label}` | {100 * right.mean():.1f} ({100 * low:.1f}-{100 * high:.1f}) | {test} | {p} | {nfe:.1f} | "
            f"{compute:,.0f} |"
        )
    arena = ARENAS[name]
    head = f"### {name}: {len(base)} problems, {arena.steps} steps" + (", temperature 1" if arena.temperature else "")
    title = f"| sampler | {task.correct_means}, % | minus `{AGAINST}` | p | NFE | compute, M |"
    note = [f"\nRefused here: {', '.join(f'`{one}`' for one in refused)}."] if refused else []
    return ["", head, "", title, "|---" * 6 + "|", *lines, *note]


# ---- all of it ---------------------------------------------------------------------------------------------------------------


def work(bench: Bench, kind: str, name: str, what: str) -> str:
    """One job of a worker process."""
    torch.set_num_threads(1)
    return fit(bench, name, what) if kind == "fit" else measure(bench, name, what)


def jobs(bench: Bench) -> list[tuple[str, str, str]]:
    """What is missing and can be done now: trainings and cells in turn, cells whose planner is trained."""
    fits, cells = [], []
    for name in bench.only:
        plans = planners(ARENAS[name], 1)
        for planner in wanted(name):
            ready = not plans[planner].after or trained(bench, name, plans[planner].after)
            if ready and not trained(bench, name, planner):
                fits.append(("fit", name, planner))
        for label, (_, planner) in rows(bench, name).items():
            if (not planner or trained(bench, name, planner)) and not cell_path(bench, name, label).exists():
                cells.append(("cell", name, label))
    return [job for pair in zip_longest(fits if bench.train else [], cells) for job in pair if job is not None]


def do_all(bench: Bench, workers: int, seconds: float) -> None:
    """Every job, those that others wait for first, by several processes."""
    end, begun = time.monotonic() + seconds, set()
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        running: dict[Any, tuple[str, str, str]] = {}
        while True:
            for job in jobs(bench):
                if job not in begun and len(running) < workers and time.monotonic() < end:
                    begun.add(job)
                    running[pool.submit(work, bench, *job)] = job
            if not running:
                return
            done = next(as_completed(running))
            job = running.pop(done)
            print(done.result() if done.exception() is None else f"{job}: {done.exception()!r}", flush=True)


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/orders"))
    parser.add_argument("--only", default=",".join(ARENAS))
    parser.add_argument("--limit", type=int, default=300, help="problems of each model")
    parser.add_argument("--states", type=int, default=20_000, help="states on which each planner is trained")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--no-train", action="store_true", help="leave out planners that are not trained")
    parser.add_argument("--print", action="store_true")
    told = parser.parse_args()
    if told.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    bench = Bench(told.runs, told.limit, told.states, told.device, tuple(told.only.split(",")), not told.no_train)
    for name in bench.only:
        data(bench, name)
        _ = training_data(bench, name) if ARENAS[name].train else {}
    if not told.print:
        do_all(bench, told.workers, told.seconds)
    print("\n".join(line for name in bench.only for line in table(bench, name)))


if __name__ == "__main__":
    main()
