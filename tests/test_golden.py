"""Golden results: decoding trajectories and training steps whose hashes are stored in `golden.json`.

Refactoring must not change any of them. A failure means that a token, a commit step, the number of forwards, a log-probability
or a weight is no longer bit-identical to the recorded one.

What is compared:

* On a machine type on which a case was recorded (same torch version, CPU capability, architecture and CPU model), every hash
  must agree exactly: that of the integers (tokens, commit steps, forwards, undone, history) and that of the float32 bytes.
* On any other machine type the last bit of a float may differ, because other CPU instructions are used. There, float hashes are
  not compared; sums of the floats must agree to a relative tolerance of 1e-4. Integer hashes must still agree for deterministic
  cases. They are not compared where tokens or positions are drawn at random, since a draw may flip on a rounding error.
* In some cases rounding decides more than the last bit: which of two equally likely positions comes first, or the path of a
  training run. These have one record for each machine type ("elsewhere"), and are skipped on types that have none. So that a
  case may fail on a type without a record, another type than the first must have agreed with it ("agrees").

The input problems are stored in `golden.json` too, so that decoding cases do not depend on the problem generators. Training
cases do depend on them.

Only the section "Adapter" uses the decoding and training API. When that API changes, rewrite the adapter; case names and
`golden.json` stay as they are.

Usage:
    python tests/test_golden.py --write            record cases that are missing from golden.json or not yet compared on this
                                                   machine type, keep all others
    python tests/test_golden.py --write --force    record all cases again, and drop those that no longer exist
"""

import argparse
import copy
import functools
import hashlib
import json
import platform
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch
from torch import Tensor

GOLDEN = Path(__file__).with_name("golden.json")
TOLERANCE = 1e-4
INTEGERS = ("tokens", "commit_step", "forwards", "undone", "history")
FLOATS = ("token_log_probs", "order_log_probs")


class Spec(NamedTuple):
    """One decoding case.

    Args:
        denoiser: shipped name, or "antiberty" for random weights of that model's vocabulary and hidden size.
        order: `ORDER[~SIGMA][+REMASKER][@blocks:LENGTH][@COUNT]`, as on the command line.
        steps: budget of forwards; None for one per position.
        noise: scale of the Gumbel noise on the scores.
        token: "" for the most likely token, else "TEMPERATURE:TOP_P:TOP_K" (TOP_K 0 for all).
        count: a count rule that has no name on the command line, see `make_sampler`.
        undo: "LEVEL:DOUBT:REMEMBERS" in place of the defaults of `+undo`.
        seed: of the first row; row i uses seed + i.
        history: also record the tokens after every step.
        batch_size: decode through `decode_in_batches` with this batch size; 0 for one batch.
    """

    denoiser: str
    order: str
    steps: int | None = 5
    noise: float = 0.0
    token: str = ""
    count: str = ""
    undo: str = ""
    seed: int = 0
    history: bool = False
    batch_size: int = 0

    @property
    def drawn(self) -> bool:
        """Whether the result depends on random numbers that are compared with floats of the model."""
        drawn_rules = ("plackett_luce", "bernoulli", "remdm")
        return bool(self.noise or self.token or "~" in self.order or any(rule in self.order for rule in drawn_rules))


# ---- Adapter: the only part that knows the API of the package ---------------------------------------------------------------


@functools.cache
def load(name: str) -> tuple[Any, Any]:
    """A denoiser in eval mode and the order that was fitted to it, None if there is none."""
    from anyorder.denoisers.transformer import Transformer
    from anyorder.zoo import load_denoiser, load_order, order_folder

    if name == "antiberty":  # its weights are not shipped, but its order is
        torch.manual_seed(0)
        denoiser = Transformer(25, 4, 127, width=512, layers=1, heads=["everything"] * 4, pad_token_id=0, positions=True).eval()
        order = load_order(order_folder(name))
    else:
        denoiser = load_denoiser(name)
        has_order = (order_folder(name) / "config.json").is_file()
        order = load_order(order_folder(name), denoiser) if has_order else None
    denoiser.own_order = str(order_folder(name)) if order is not None else ""
    return denoiser, order


def can_undo(name: str) -> bool:
    """Whether the denoiser's order has a critic."""
    order = load(name)[1]
    return order is not None and order.critic is not None


def heuristic_names() -> list[str]:
    from anyorder.registry import ORDERS

    return [name for name in ORDERS.names(baseline=True) if not ORDERS.entry(name).arguments]


def oracle_names() -> list[str]:
    from anyorder.registry import ORDERS

    return ORDERS.names(oracle=True)


def denoiser_names() -> list[str]:
    from anyorder.zoo import zoo_names

    return zoo_names()


def count_rule_names() -> set[str]:
    """All count rules but `demask`, which needs a policy that no shipped order has."""
    from anyorder.registry import COUNT_RULES

    return set(COUNT_RULES.names()) - {"demask"}


def count_rule_of(spec: Spec) -> str:
    """The name of the count rule that a case uses."""
    from anyorder.registry import COUNT_RULES

    return COUNT_RULES.name_of(make_sampler(spec).count)


def make_sampler(spec: Spec) -> Any:
    """The sampler that a case asks for, not yet bound to its denoiser."""
    from anyorder.decoding.combined_counts import Deadline, IfUnsure, TwoPhase
    from anyorder.decoding.counts import Cosine, EvenBlocks, Linear, Threshold
    from anyorder.decoding.remaskers import CriticUndo
    from anyorder.decoding.sampler import Sampler
    from anyorder.decoding.timesteps import Ancestral, Timesteps
    from anyorder.decoding.tokens import Argmax, Sample

    rules: dict[str, Any] = {
        "in_time": Deadline(Threshold(0.95), Linear()),
        "in_time_cosine": Deadline(Threshold(0.8), Cosine()),
        "if_unsure": IfUnsure(Linear(), above=0.7, below=2),
        "timesteps": Timesteps(),
        "timesteps_eps": Timesteps(0.1),
        "ancestral": Ancestral(),
        "even_blocks": EvenBlocks(4),
        "even_blocks_2_steps": EvenBlocks(4, 2),
        "second_look_quick": two_phase_of_then(Threshold(0.3), Threshold(0.95), Threshold(0.6)),
    }
    token: Any = Argmax()
    if spec.token:
        temperature, top_p, top_k = spec.token.split(":")
        token = Sample(float(temperature), float(top_p), int(top_k) or None)
    text = spec.order.replace("second_look", "two_phase")  # the names of cases are older than this one
    made = Sampler.parse(text, steps=spec.steps, noise=spec.noise, token=token, count=rules.get(spec.count))
    if spec.undo:
        level, doubt, remembers = spec.undo.split(":")
        made = made.replace(remasker=undo_of_then(float(level), float(doubt), remembers == "1"))
    elif made.remasker == CriticUndo():
        made = made.replace(remasker=undo_of_then(0.3, 0.9, True))
    return made.replace(count=two_phase_of_then()) if made.count == TwoPhase() else made


def two_phase_of_then(first: Any = None, again: Any = None, generous: Any = None) -> Any:
    """The two phases as they were when the cases were recorded: careful at once with a step for every four positions."""
    from anyorder.decoding.combined_counts import TwoPhase
    from anyorder.decoding.counts import FunctionRule, Threshold
    from anyorder.decoding.entropy_counts import EntropyBound

    fast, slow = first or EntropyBound(0.1), generous or EntropyBound(0.01)

    def until_complete(scores: Tensor, state: Any, prediction: Any, remasked: Tensor) -> Tensor:
        careful = 4 * state.steps >= state.generated.sum(dim=1)
        seen = scores, state, prediction, remasked
        return torch.where(careful[:, None], slow(*seen), fast(*seen))

    return TwoPhase(FunctionRule(until_complete), again or Threshold(0.99))


def undo_of_then(level: float, doubt: float, remembers: bool) -> Any:
    """Undo as it was when the cases were recorded: without accepting level, noise and drawn tokens."""
    from anyorder.decoding.remaskers import CriticUndo

    return CriticUndo(level, doubt, remembers, accept=level, noise=0.0, temperature=0.0, keeps_best=False)


def run(denoiser: Any, tokens: Tensor, x0: Tensor, spec: Spec) -> dict[str, Tensor | None]:
    """Decode one case: `INTEGERS` and `FLOATS` by name."""
    from anyorder.decoding.loop import decode
    from anyorder.decoding.result import History

    sampler = make_sampler(spec)
    if spec.steps is None:  # cases were recorded with one budget for the batch, that of its longest row
        sampler = sampler.replace(steps=int((tokens == denoiser.mask_token_id).sum(dim=1).max()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the weights that antiberty's order was fitted to are not shipped
        sampler = sampler.bind(denoiser, strict=False)
    history = History(tokens)
    if spec.batch_size:
        from anyorder.evaluation.batches import decode_in_batches
        from anyorder.tasks.base import Instances

        problems = Instances(tokens, tokens == denoiser.mask_token_id, x0)
        out = decode_in_batches(
            denoiser, problems, sampler, seed=spec.seed, batch_size=spec.batch_size, progress=None, name=""
        )  # fmt: skip
    else:
        out = decode(denoiser, tokens, sampler, seeds=spec.seed, x0=x0, on_step=history if spec.history else ())
    found: dict[str, Tensor | None] = {name: getattr(out, name) for name in FLOATS}
    found |= {"tokens": out.tokens, "commit_step": out.commit_step, "forwards": out.nfe, "undone": out.remasked}
    return found | {"history": torch.stack(history.tokens) if spec.history else None}


def train_once(values: dict[str, Any], folder: Path) -> tuple[dict[str, Tensor], list[float]]:
    """Run a recipe: the weights that it saves, and the loss of each logged step."""
    from rich.console import Console

    from anyorder.training.fit import run_recipe
    from anyorder.training.recipes import validate_recipe

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tiny runs may be reported as collapsed
        assert run_recipe(validate_recipe(renamed(values)), folder, Console(quiet=True)).finished
    weights = {}
    for path in sorted(folder.rglob("model.safetensors")):
        for name, tensor in safetensors.torch.load_file(path).items():
            weights[f"{path.parent.relative_to(folder)}/{name}"] = tensor
    return weights, [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


RENAMED = {
    "objective": {"quality": "critic", "lost_weight": "incorrect_weight", "keep_lost": "keep_incorrect",
                  "rank_temperature": "temperature"},
    "policy": {"first_look": "first_prediction"},
    "denoiser": {"form": "architecture"},
    "masking": {"normalise": "normalize"},
    "update": {"standardise": "standardize"},
    "rollout": {"group": "group_size"},
}  # fmt: skip
"""Keys of recipes since the cases were recorded, by section."""


def renamed(values: dict[str, Any]) -> dict[str, Any]:
    """A recipe in today's keys: renamed, with the defaults of then, and without keys that have no effect, which are refused."""
    values = copy.deepcopy(values)
    for section, keys in RENAMED.items():
        if isinstance(values.get(section), dict):
            values[section] = {keys.get(key, key): value for key, value in values[section].items()}
    if values["kind"] == "order" or "policy" in values:
        values["policy"] = policy_of_then(values["kind"], values.get("policy", {}))
    if values["kind"] == "order":
        drop_useless(values.get("objective", {}))
    if values["kind"] == "reward":
        if "start" in values:
            del values["policy"]
        update, rollout = values.get("update", {}), values.get("rollout", {})
        for key, needed in (("imitate", "imitation"), ("imitate_level", "imitation"), ("lr_scale", "train_denoiser")):
            if not update.get(needed):
                update.pop(key, None)
        if update.get("reference") != "softmax":
            update.pop("reference_temperature", None)
        if not rollout.get("experts"):
            rollout.pop("expert_level", None)
    return values


def policy_of_then(kind: str, policy: dict[str, Any]) -> dict[str, Any]:
    """Settings of a policy whose heads were a list for every architecture, by default one head."""
    architecture = policy.get("architecture", "lookahead")
    heads = policy.pop("heads", ["everything"])
    if architecture == "lookahead":
        return {"first_prediction": True, **policy, "heads": heads if isinstance(heads, list) else ["everything"] * heads}
    policy = {key: value for key, value in policy.items() if key not in ("layers", "first_prediction")}
    if architecture == "mlp":
        policy.pop("top_positions", None)
        return policy
    return {**policy, "heads": len(heads) if isinstance(heads, list) else heads}


def drop_useless(objective: dict[str, Any]) -> None:
    """Remove settings of an objective that have no effect."""
    uniform, model = objective.get("states") == "uniform", objective.get("states", "model") == "model"
    useless = ["rollout_steps", "selection_weight", "selection_temperature"] if uniform else []
    useless += [] if model else ["keep_incorrect"]
    useless += [] if objective.get("critic", True) else ["complete_weight", "undo_rounds"]
    useless += [] if objective.get("selection_weight") else ["selection_temperature"]
    useless += [] if objective.get("name") == "rank" else ["temperature"]
    for key in useless:
        objective.pop(key, None)


def recipe_values(name: str) -> dict[str, Any]:
    """The settings of a shipped recipe."""
    from anyorder.training.recipes import load_recipe

    return load_recipe(name).model_dump(mode="json", exclude_unset=True)


def make_problems(name: str) -> tuple[Tensor, Tensor]:
    """Three problems with solutions for a denoiser: tokens and x0 (3, L). Called only to record problems that are missing."""
    from anyorder.tasks import make_task
    from anyorder.zoo import folder_of, task_of

    if name == "antiberty":
        x0 = torch.randint(5, 25, (3, 20), generator=torch.Generator().manual_seed(3))
        tokens = x0.masked_fill(torch.rand(3, 20, generator=torch.Generator().manual_seed(4)) < 0.6, 4)
        for row, length in enumerate((20, 13, 17)):
            x0[row, length:] = tokens[row, length:] = 0
        return tokens, x0
    if name == "moses":
        found = make_task("molecules", hide=0.7).encode([*SMILES[:3]])
    elif name == "moses-block":
        found = make_task("molecules", free_length=True).encode([*SMILES[:3]])
    elif name == "wordnet":
        found = make_task("text", alphabet="subwords", length=36, hide=0.7).encode(
            ["a small boat with one sail", "the act of forming something again", "an instrument"]
        )
    elif name == "sat9":
        found = make_task("sat", variables=9).generate(3, 11)
    elif name == "addition":
        found = make_task("arithmetic").generate(3, 11, carry=1.0)
    elif name.startswith("sudoku4"):
        found = make_task("sudoku", box=2).generate(3, 11, givens=(1, 6), unique=False)
    elif name in ("sudoku9", "sudoku9-easy"):
        found = make_task("sudoku", box=3).generate(3, 11, givens=(22, 30))
    else:
        found = task_of(folder_of(name)).generate(3, 11)
    return found.tokens, found.x0


def _llada(**how: Any) -> dict[str, Tensor | None]:
    from anyorder.interfaces.llada import generate
    from test_interfaces import MASK, MODEL

    return {"tokens": generate(MODEL, _prompts(MASK), mask_id=MASK, **how)}


def _dream(**how: Any) -> dict[str, Tensor | None]:
    from anyorder.interfaces.dream import diffusion_generate
    from test_interfaces_dream import MASK, MODEL

    out: Any = diffusion_generate(MODEL, _prompts(MASK), output_history=True, return_dict_in_generate=True, **how)
    return {"tokens": out.sequences, "history": torch.stack(list(out.history))}


def _generator(**how: Any) -> dict[str, Tensor | None]:
    from anyorder.interfaces.transformers import as_generator
    from test_interfaces import MASK, MODEL

    prompts = _prompts(MASK)
    prompts[:, 2] = MASK
    return {"tokens": as_generator(MODEL, mask_token_id=MASK).generate(prompts, **how)}


def _scheduler(order: str | None) -> dict[str, Tensor | None]:
    pytest.importorskip("diffusers")
    from anyorder.interfaces.diffusers import OrderScheduler
    from test_interfaces_diffusers import MASK, MODEL

    scheduler = OrderScheduler(block_length=8, num_inference_steps=4, threshold=0.9, order=order)
    scheduler.set_timesteps(4)
    generator = torch.Generator().manual_seed(2)
    block = torch.full((3, 8), MASK)
    block[0, :3] = 5
    after = [block]
    with torch.no_grad():
        for step in range(4):
            output = scheduler.step(MODEL(block).logits, step, block, mask_token_id=MASK, generator=generator)
            block = output.prev_sample
            after.append(block)
    return {"tokens": block, "history": torch.stack(after)}


# ---- Decoding cases ---------------------------------------------------------------------------------------------------------

SMILES = (
    "CCOc1ccccc1C(=O)NCC", "CC(C)N1CCNCC1", "COc1ccc(Cl)cc1NC(=O)CN1CCOCC1", "Cc1ccccc1O", "CCN(CC)C(=O)c1ccncc1",
    "O=C(Nc1ccccc1F)C1CCCC1", "CC1CCN(S(C)(=O)=O)CC1", "CCCn1nccc1N", "COCCNC(=O)c1cccs1", "Cc1nc(CN)cs1",
)  # fmt: skip
COUNTS = ("linear", "cosine", "fixed:2", "threshold:0.6", "score_threshold:0.5", "factor:1.0", "entropy_bound:0.1",
          "entropy_share", "even_unsure", "klass:0.5:0.1:2", "predicted_error:0.3", "second_look", "first_hitting",
          "first_hitting:3", "saber", "ascending", "dapd:0.03", "number_of:entropy_share")  # fmt: skip
ACTIONS = ("plackett_luce:0.5", "bernoulli:0.7", "dynamic_plackett_luce:1.0")
UNNAMED = (
    "in_time", "in_time_cosine", "if_unsure", "timesteps", "timesteps_eps", "ancestral", "even_blocks", "even_blocks_2_steps",
)  # fmt: skip
TOKENS = ("1.0:1.0:0", "0.6:1.0:0", "1.0:0.7:0", "1.0:1.0:3", "0.8:0.9:4")
DETAILED = ("sudoku4", "moses")
PUBLISHED_REMASKERS = (
    "confidence+p2", "policy+p2:2", "confidence+p2:2@blocks:4", "confidence+wino:0.5:0.9", "policy+wino:0.5:0.9@blocks:4",
    "confidence+below:0.3", "random+remdm:cap:0.2", "confidence+remdm:rescale:0.5@linear", "policy+remdm:conf",
    "random+remdm:loop:0.1",
)  # fmt: skip


def decoding_cases() -> dict[str, Spec]:
    """Every case by its name."""
    found: dict[str, Spec] = {}

    def add(denoiser: str, order: str, **how: Any) -> None:
        details = "".join(f" {key}={value}" for key, value in how.items())
        found[f"{denoiser} {order}{details}"] = Spec(denoiser, order, **how)

    for name in ("addition", "antiberty", "moses", "sat9", "sudoku4", "sudoku4-weak", "sudoku9", "sudoku9-easy", "wordnet"):
        learned = [] if name == "sudoku4-weak" else ["policy"]
        for order in (*heuristic_names(), *oracle_names(), *learned):
            add(name, order)
        if can_undo(name):
            for order in ("policy+undo", "confidence+undo"):
                for steps in (5, 12):
                    add(name, order, steps=steps)
            count = {"sat9": 3, "sudoku4": 5}.get(name, 14)
            add(name, f"policy+undo@fixed:{count}", steps=12)
            if name == "sat9":  # drawn all at once, so that there is something to undo
                add(name, "policy+undo@fixed:9", steps=12, undo="0.9:0.99:1", token="3.0:1.0:0")
            add(name, f"confidence+undo@fixed:{count}", steps=12)
            add(name, "policy+undo@threshold:0.3", steps=12)
            add(name, "policy+undo@entropy_bound:0.1", steps=12)
            add(name, "policy+undo", steps=12, undo="0.9:0.99:1", history=True)
            add(name, "policy+undo", steps=12, undo="0.9:0.99:0", history=True)
            add(name, "policy+undo", steps=12, undo="0.9:0.99:1", count="second_look_quick")
            add(name, "policy+undo", steps=12, undo="0.9:0.99:1", token="1.0:1.0:0")
            add(name, "policy+undo", steps=12, undo="0.9:0.99:1", noise=0.5)
            add(name, "policy~0.1+undo", steps=12, undo="0.9:0.99:1")

    for name in sorted(set(denoiser_names()) - {spec.denoiser for spec in found.values()}):  # large ones: few cases
        add(name, "confidence", steps=4)
        if can_undo(name):
            add(name, "policy+undo@fixed:64", steps=8)

    for name in DETAILED:
        for rule in COUNTS:
            add(name, f"confidence@{rule}", steps=8)
            add(name, f"policy@{rule}", steps=8)
        for rule in ACTIONS:
            for order in ("confidence", "policy"):
                add(name, f"{order}@{rule}", steps=8)
            add(name, f"policy@{rule}", steps=8, seed=5)
        for rule in UNNAMED:
            add(name, "margin", steps=8, count=rule)
            add(name, "policy", steps=8, count=rule)
        for token in TOKENS:
            add(name, "confidence", steps=8, token=token)
            add(name, "policy", steps=8, token=token)
        add(name, "confidence", steps=8, token="1.0:1.0:0", seed=5)
        add(name, "random", seed=5)
        for order in ("confidence+repredict", "policy+repredict", "confidence+repredict@cosine", "random+repredict"):
            add(name, order, steps=8)
            add(name, order, steps=8, token="0.8:0.9:4", history=True)
        add(name, "entropy+repredict", steps=8, noise=0.5)
        for order in PUBLISHED_REMASKERS:
            add(name, order, steps=8)
            add(name, order, steps=8, token="0.8:0.9:4", history=True)
        add(name, "confidence+p2:2", steps=8, noise=0.5)
        for rules in ("@blocks:4", "@blocks:3@threshold:0.6", "@blocks:4@fixed:2", "@blocks:4@plackett_luce:0.5",
                      "@blocks:4@bernoulli:0.7", "@blocks:4@klass:0.5:0.1:2"):  # fmt: skip
            add(name, f"confidence{rules}", steps=8)
            add(name, f"policy{rules}", steps=8)
        add(name, "policy@blocks:4", steps=8, count="even_blocks_2_steps")
        add(name, "policy@blocks:4", steps=8, noise=0.5)
        for scale in (0.1, 1.0):
            for order in ("confidence", "margin", "policy"):
                add(name, order, noise=scale)
        add(name, "confidence", noise=1.0, seed=5)
        add(name, "policy", noise=1.0, token="1.0:1.0:0", history=True)
        for order in ("confidence~0.1", "policy~0.1", "policy~0.1@blocks:4", "entropy~0.5@threshold:0.6"):
            add(name, order)
        for order in ("top_k:1", "top_k:3", "top_k:3@threshold:0.6", "top_k:3@blocks:4", "eoser:2", "info_gain:3",
                      "info_gain:2:0@blocks:4"):  # fmt: skip
            add(name, order, steps=8)
        for order in ("confidence", "policy"):
            for steps in (1, 2, 40, None):
                add(name, order, steps=steps)
            add(name, order, history=True)
            add(name, order, batch_size=2)
        add(name, "policy", batch_size=1, token="0.8:0.9:4", seed=3)
        add(name, "random", batch_size=2, noise=0.2, seed=3)
    return found


# ---- Interface cases --------------------------------------------------------------------------------------------------------


def _prompts(mask: int) -> Tensor:
    return torch.randint(0, mask, (3, 6), generator=torch.Generator().manual_seed(2))


PADDED = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]])


def interface_cases() -> dict[str, Callable[[], dict[str, Tensor | None]]]:
    """Calls with the arguments of other libraries, on tiny random models."""
    found: dict[str, Callable[[], dict[str, Tensor | None]]] = {}

    def add(kind: str, function: Callable[..., dict[str, Tensor | None]], **how: Any) -> None:
        shown = " ".join(f"{key}={'padded' if isinstance(value, Tensor) else value}" for key, value in how.items())
        found[f"{kind} {shown}".strip()] = functools.partial(function, **how)

    size = {"steps": 6, "gen_length": 12, "block_length": 6}
    for remasking in ("low_confidence", "random"):
        for temperature in (0.0, 0.8):
            add("llada", _llada, **size, remasking=remasking, temperature=temperature)
    add("llada", _llada, **size, cfg_scale=1.5)
    add("llada", _llada, **size, cfg_scale=1.5, temperature=0.8, seed=4)
    add("llada", _llada, **size, attention_mask=PADDED)
    for order in ("margin", "entropy", "left_to_right"):
        add("llada", _llada, **size, order=order)
    for alg in ("origin", "maskgit_plus", "topk_margin", "entropy"):
        add("dream", _dream, max_new_tokens=10, steps=6, alg=alg)
        add("dream", _dream, max_new_tokens=10, steps=6, alg=alg, temperature=0.7, top_p=0.9, alg_temp=0.5, seed=3)
    add("dream", _dream, max_new_tokens=10, steps=6, alg="entropy", attention_mask=PADDED)
    add("dream", _dream, max_new_tokens=10, steps=6, alg="maskgit_plus", temperature=0.7, top_k=5, eps=0.1)
    add("dream", _dream, max_new_tokens=10, steps=6, order="margin")
    add("generate", _generator)
    add("generate", _generator, max_new_tokens=8, steps=4)
    add("generate", _generator, max_new_tokens=8, threshold=0.5)
    add("generate", _generator, max_new_tokens=8, steps=4, block_length=4, threshold=0.5)
    add("generate", _generator, max_new_tokens=8, steps=4, temperature=0.8, top_p=0.9, seed=6)
    add("generate", _generator, max_new_tokens=8, order="entropy", attention_mask=PADDED)
    for order in (None, "confidence", "margin", "random"):
        add("scheduler", _scheduler, order=order)
    return found


def is_drawn_call(name: str) -> bool:
    """Whether an interface case draws tokens or positions against floats of the model."""
    return "temperature=0.7" in name or "temperature=0.8" in name


# ---- Training cases ---------------------------------------------------------------------------------------------------------

HEADS = ["row", "column", "box", "everything"]
SUDOKU4 = {"name": "sudoku", "options": {"box": 2}}
DENOISER: dict[str, Any] = {
    "kind": "denoiser",
    "task": SUDOKU4,
    "data": {"size": 30, "options": {"givens": 6}},
    "denoiser": {"width": 16, "layers": 1, "heads": HEADS, "dropout": 0.1},
    "optimizer": {"name": "muon", "lr": 0.01, "ema": 0.9, "warmup_steps": 2, "weight_decay": 0.1},
    "run": {"steps": 3, "batch_size": 8, "log_steps": 1},
}
ORDER: dict[str, Any] = {
    "kind": "order",
    "task": SUDOKU4,
    "data": {"size": 30, "options": {"givens": 5}},
    "denoiser": "sudoku4-weak",
    "policy": {"architecture": "lookahead", "width": 16, "layers": 1, "heads": HEADS},
    "objective": {"rollout_steps": [2, 5]},
    "optimizer": {"lr": 0.01, "warmup_steps": 2},
    "run": {"steps": 8, "batch_size": 8, "log_steps": 1},
}
JOINT: dict[str, Any] = {
    "kind": "order",
    "denoiser": "sudoku4",
    "train_denoiser": True,
    "task": SUDOKU4,
    "data": {"size": 30, "options": {"givens": 6}},
    "policy": {"architecture": "mlp", "width": 8},
    "objective": {"name": "order", "states": "uniform", "quality": False},
    "joint": {"decode_problems": 4, "decode_steps": 4, "decode_every": 2},
    "optimizer": {"lr": 0.01, "warmup_steps": 2},
    "run": {"steps": 3, "batch_size": 8, "log_steps": 1},
}
REWARD: dict[str, Any] = {
    "kind": "reward",
    "task": SUDOKU4,
    "data": {"size": 30, "options": {"givens": 8, "unique": False}},
    "denoiser": "sudoku4-weak",
    "policy": {"architecture": "upo", "width": 16, "heads": ["everything"] * 2},
    "rollout": {"group": 4},
    "update": {"inner": 2},
    "optimizer": {"lr": 1e-2, "warmup_steps": 1},
    "run": {"steps": 4, "batch_size": 8, "log_steps": 1},
}
MOLECULES: dict[str, Any] = {
    "task": {"name": "molecules", "options": {}},
    "data": {"size": 10, "options": {}, "file": "SMILES"},
}
PLAIN_HEADS = ["everything"] * 2


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Settings with some of them changed, section by section."""
    out = copy.deepcopy(values)
    for key, value in changes.items():
        if key != "task" and isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = {**out[key], **value}
        else:
            out[key] = value
    return out


def training_cases() -> dict[str, Callable[[], dict[str, Any]]]:
    """Settings of every case by its name. A recipe that starts from another one names it in `start`."""
    found: dict[str, Callable[[], dict[str, Any]]] = {}

    def add(name: str, base: dict[str, Any] | str, **changes: Any) -> None:
        found[f"train {name}"] = lambda: merged(recipe_values(base) if isinstance(base, str) else base, changes)

    add("denoiser muon", DENOISER)
    add("denoiser adamw cosine", DENOISER, optimizer={"name": "adamw"}, masking={"schedule": "cosine"})
    discrete = {"schedule": "discrete", "levels": 5, "time_weight": True, "focal_gamma": 1.0}
    add("denoiser discrete focal", DENOISER, masking=discrete)
    add("denoiser everything rows", DENOISER, masking={"scope": "everything", "normalise": "rows"})
    add("denoiser sequences loops", DENOISER, masking={"normalise": "sequences"}, denoiser={"loops": 2, "positions": True})
    plain = {"heads": PLAIN_HEADS, "positions": True}
    add("denoiser molecules", DENOISER, **MOLECULES, denoiser=plain)
    grouped = merged(MOLECULES, {"data": {"group_by_length": True}})
    add("denoiser molecules by length", DENOISER, **grouped, denoiser=plain)

    for objective in ("order", "correctness", "loss", "rank"):
        for states in ("uniform", "teacher", "model"):
            for quality in (False, True):
                chosen = {"name": objective, "states": states, "quality": quality}
                add(f"order {objective} {states}{' quality' * quality}", ORDER, objective=chosen)
    for architecture in ("mlp", "score_transformer", "score_hidden_transformer", "confidence_transformer", "upo"):
        policy = {
            "architecture": architecture,
            "heads": PLAIN_HEADS if architecture in ("upo", "confidence_transformer") else HEADS,
        }
        add(f"order policy {architecture}", ORDER, policy=policy, objective={"quality": False})
    add("order without first look", ORDER, policy={"first_look": False})
    add("order keep_lost lost_weight", ORDER, objective={"keep_lost": 0.3, "lost_weight": 0.5})
    add("order selection", ORDER, objective={"selection_weight": 0.5})
    add("order undo_rounds", ORDER, objective={"undo_rounds": 3, "rollout_steps": [1, 3]}, run={"steps": 12})
    hard = {"options": {"givens": 2, "unique": False}}
    rounds = {"undo_rounds": 3, "rollout_steps": [1, 2]}  # long enough that rejected tokens are replaced and undone again
    add("order undo_rounds long", ORDER, objective=rounds, data=hard, optimizer={"lr": 0.03}, run={"steps": 24})
    add("order seed muon ema", ORDER, seed=3, optimizer={"name": "muon", "ema": 0.9})
    weighted = {"schedule": "cosine", "time_weight": True}
    add("order uniform time weight", ORDER, objective={"states": "uniform", "name": "order"}, masking=weighted)
    uniform = {"name": "order", "states": "uniform", "quality": False}
    add("order molecules uniform", ORDER, **MOLECULES, denoiser="moses", policy={"architecture": "mlp"}, objective=uniform)
    add("order molecules model", ORDER, **MOLECULES, denoiser="moses", policy={"heads": PLAIN_HEADS})

    for weights in ("policy", "confidence", "margin", "papl", "uniform"):
        add(f"joint {weights}", JOINT, joint={"weights": weights, "alpha": 2.0})
    add("joint teacher", JOINT, objective={"states": "teacher"})
    add("joint teacher lookahead", JOINT, objective={"states": "teacher"}, policy={"architecture": "lookahead", "heads": HEADS})
    add("joint without one", JOINT, joint={"plus_one": False, "lr_scale": 0.3})
    add("joint focal tokens", JOINT, masking={**discrete, "normalise": "tokens"})
    add("joint correctness", JOINT, objective={"name": "correctness"})
    add("joint molecules", JOINT, **MOLECULES, denoiser="moses", joint={"decode_every": 0})

    add("reward upo", REWARD)
    add(
        "reward upo confidence reference", REWARD, update={"reference": "confidence", "beta": 0.1, "minibatches": 2, "inner": 1}
    )
    add("reward upo softmax reference", REWARD, update={"reference": "softmax", "beta": 0.1})
    add("reward upo top_k reference", REWARD, update={"reference": "top_k", "beta": 0.1}, policy={"top_positions": 3})
    add("reward upo imitation", REWARD, update={"imitation": 1})
    add("reward imitation gt_margin", REWARD, update={"imitation": 2, "imitate": "gt_margin"})
    add("reward imitation threshold", REWARD, update={"imitation": 2, "imitate_level": 0.9}, rollout={"actions": "bernoulli"})
    add("reward blocks", REWARD, rollout={"block": 4})
    add("reward blocks bernoulli", REWARD, rollout={"block": 4, "actions": "bernoulli"})
    add("reward budget", REWARD, rollout={"steps": 4, "per_step": 2, "temperature": 0.7})
    add("reward sampled tokens", REWARD, rollout={"token_temperature": 1.0})
    for name in ("solved", "rules"):
        add(f"reward {name}", REWARD, reward={"name": name})
    add("reward likelihood bonus", REWARD, reward={"likelihood_bonus": 0.1})
    add("reward lookahead", REWARD, policy={"architecture": "lookahead", "heads": HEADS})
    add("reward mlp", REWARD, policy={"architecture": "mlp"})
    confidence = {"architecture": "confidence_transformer"}
    jazbec: dict[str, Any] = {
        "policy": confidence,
        "reward": {"name": "rules", "speed": 1.0},
        "update": {"standardise": False, "clip": 0.5},
    }
    for actions in ("bernoulli", "dynamic_plackett_luce"):
        add(f"reward jazbec {actions}", REWARD, **jazbec, rollout={"actions": actions})
        experts = {"actions": actions, "experts": 1}
        add(f"reward jazbec {actions} experts", REWARD, **jazbec, rollout=experts)
    dcolt = {"per_step": 2, "token_temperature": 1.0}
    add("reward dcolt", REWARD, rollout=dcolt, update={"train_denoiser": True, "lr_scale": 0.1})
    add("reward dcolt blocks", REWARD, rollout={**dcolt, "block": 4}, update={"train_denoiser": True, "lr_scale": 0.1})
    add("reward start", REWARD, **jazbec, rollout={"actions": "bernoulli"}, start="train reward imitation start")
    add("reward imitation start", REWARD, policy=confidence, rollout={"actions": "bernoulli"}, update={"imitation": 9})

    small = {"steps": 2, "batch_size": 4, "log_steps": 1}
    for recipe in ("sudoku4-denoiser", "sudoku4-weak-denoiser", "sudoku9-easy-denoiser", "sat9-denoiser", "zebra-denoiser",
                   "tsp-denoiser", "countdown4-denoiser", "sorting-denoiser"):  # fmt: skip
        add(f"recipe {recipe}", recipe, run=small, data={"size": 8})
    for recipe in ("sudoku4-order", "sudoku9-order", "sudoku9-critic", "sudoku9-easy-order", "sat9-order", "sudoku9-adaptive",
                   "sat9-adaptive"):  # fmt: skip
        add(f"recipe {recipe}", recipe, run={**small, "steps": 4}, data={"size": 8})
    for recipe in ("sudoku9-adaptive", "sat9-adaptive"):
        add(f"recipe {recipe} joint", recipe, run=small, data={"size": 8}, train_denoiser=True, joint={"decode_problems": 2})
    add(
        "recipe sudoku4-upo",
        "sudoku4-upo",
        run={**small, "batch_size": 6, "steps": 8},
        data={"size": 8},
        update={"imitation": 1},
    )
    add("recipe sudoku9-speed-start", "sudoku9-speed-start", run={**small, "steps": 8}, data={"size": 8})
    return found


# ---- Records ----------------------------------------------------------------------------------------------------------------


def machine() -> dict[str, str]:
    """What float results may depend on, besides the code."""
    cpu = platform.processor()
    if (info := Path("/proc/cpuinfo")).exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    capability = torch.backends.cpu.get_cpu_capability()
    return {"torch": torch.__version__, "capability": capability, "architecture": platform.machine(), "cpu": cpu}


def digest(tensors: dict[str, Tensor | None]) -> str:
    """Hash of names, shapes and exact bytes, 16 hexadecimal digits."""
    sha = hashlib.sha256()
    for name, tensor in tensors.items():
        if tensor is not None:
            sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            sha.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:16]


def summary(values: Tensor) -> list[float]:
    """Sum, sum of absolute values and sum of squares."""
    values = values.detach().double().flatten()
    return [float(f"{float(v):.9g}") for v in (values.sum(), values.abs().sum(), values.square().sum())]


def close(found: list[float], kept: list[float]) -> bool:
    """Whether two summaries agree; the tolerance of a sum is relative to the sum of absolute values."""
    scales = (kept[1], kept[1], kept[2])
    return all(abs(a - b) <= TOLERANCE * scale + 1e-9 for a, b, scale in zip(found, kept, scales, strict=True))


def decoding_record(out: dict[str, Tensor | None], *, drawn: bool) -> dict[str, Any]:
    """What is stored of a decoding case."""
    record: dict[str, Any] = {"integers": digest({name: out.get(name) for name in INTEGERS}), "drawn": drawn}
    floats = {name: value for name in FLOATS if (value := out.get(name)) is not None}
    if floats:
        record["floats"] = digest(dict(floats))
        record["summary"] = {name: summary(value) for name, value in floats.items()}
    for name in ("forwards", "undone"):
        if (counts := out.get(name)) is not None:
            record[name] = counts.tolist()
    return record


def training_record(name: str) -> dict[str, Any]:
    """What is stored of a training case."""
    cases = training_cases()
    with tempfile.TemporaryDirectory() as place:
        smiles = Path(place) / "molecules.smi"
        smiles.write_text("\n".join(SMILES) + "\n")

        def trained(case: str) -> tuple[dict[str, Tensor], list[float]]:
            values = cases[case]()
            if values["data"].get("file") == "SMILES":
                values = merged(values, {"data": {"file": str(smiles)}})
            if "start" in values:
                trained(values["start"])
                values["start"] = str(Path(place) / values["start"])
            return train_once(values, Path(place) / case)

        weights, losses = trained(name)
    loss = torch.tensor(losses, dtype=torch.float64)
    floats = torch.cat([weight.flatten().double() for weight in weights.values() if weight.is_floating_point()])
    return {
        "weights": digest(dict(weights)),
        "loss": digest({"loss": loss}),
        "summary": {"weights": summary(floats), "loss": summary(loss)},
    }


def compare(found: dict[str, Any], kept: dict[str, Any], *, same_machine: bool) -> list[str]:
    """What differs between a fresh record and the stored one."""
    different = [
        f"sums of {name}: {values}, stored {kept['summary'][name]}"
        for name, values in found.get("summary", {}).items()
        if not close(values, kept["summary"][name])
    ]
    exact = ["floats", "weights", "loss"] if same_machine else []
    if same_machine or not kept.get("drawn", True):
        exact += ["integers", "forwards", "undone"]
    return different + [f"{key}: {found[key]}, stored {kept[key]}" for key in exact if key in kept and found[key] != kept[key]]


@functools.cache
def golden() -> dict[str, Any]:
    values: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return values


def problems_of(name: str, stored: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Tokens and x0 (B, L) of the stored problems of a denoiser."""
    return torch.tensor(stored["problems"][name]["tokens"]), torch.tensor(stored["problems"][name]["x0"])


def decoded(spec: Spec, stored: dict[str, Any]) -> dict[str, Any]:
    tokens, x0 = problems_of(spec.denoiser, stored)
    return decoding_record(run(load(spec.denoiser)[0], tokens, x0, spec), drawn=spec.drawn)


def called(name: str) -> dict[str, Any]:
    return decoding_record(interface_cases()[name](), drawn=is_drawn_call(name))


def differences(name: str, found: dict[str, Any], stored: dict[str, Any], here: dict[str, str]) -> tuple[list[str], bool]:
    """What differs from what is stored of a case, and whether rounding on another machine type may explain it."""
    first = stored["cases"][name]
    elsewhere = stored.get("elsewhere", {}).get(name, [])
    for kept in (first, *elsewhere):
        if stored["machines"][kept["machine"]] == here:
            different = compare(found, kept, same_machine=False)
            return different + [line for line in compare(found, kept, same_machine=True) if line not in different], False
    return compare(found, first, same_machine=False), bool(elsewhere) or not first.get("agrees")


def check(name: str, found: dict[str, Any]) -> None:
    different, by_rounding = differences(name, found, golden(), machine())
    if different and by_rounding:
        pytest.skip("rounding decides this case, or may, and it was not recorded on this type of machine")
    assert not different, f"{name}: " + "; ".join(different)


# ---- Tests ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums of floats may depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_the_stored_cases_are_those_of_this_file() -> None:
    names = {*decoding_cases(), *interface_cases(), *training_cases()}
    assert set(golden()["cases"]) == names, "run: python tests/test_golden.py --write"


def test_every_shipped_denoiser_and_every_named_rule_has_cases() -> None:
    specs = decoding_cases().values()
    assert {*denoiser_names(), "antiberty"} == {spec.denoiser for spec in specs}
    assert count_rule_names() <= {count_rule_of(spec) for spec in specs}


def test_undo_cases_do_undo() -> None:
    cases = golden()["cases"]
    for name in denoiser_names():
        if can_undo(name):
            assert any(sum(cases[case]["undone"]) for case in cases if case.startswith(f"{name} ") and "undo" in case), name


def test_a_changed_result_is_noticed() -> None:
    kept = {"integers": "a", "floats": "b", "drawn": False, "summary": {"x": [1.0, 2.0, 3.0]}}
    assert not compare(kept, kept, same_machine=True)
    assert not compare({**kept, "floats": "c", "summary": {"x": [1.00001, 2.0, 3.0]}}, kept, same_machine=False)
    assert compare({**kept, "floats": "c"}, kept, same_machine=True)
    assert compare({**kept, "integers": "c"}, kept, same_machine=False)
    assert not compare({**kept, "integers": "c"}, {**kept, "drawn": True}, same_machine=False)
    assert compare({**kept, "summary": {"x": [1.01, 2.0, 3.0]}}, kept, same_machine=False)


def test_rounding_explains_a_change_only_where_no_other_machine_agreed() -> None:
    machines = [{"cpu": "A"}, {"cpu": "B"}, {"cpu": "C"}]
    kept = {"integers": "a", "floats": "b", "drawn": False, "machine": 0}
    alone, agreed = {"cases": {"x": kept}}, {"cases": {"x": kept | {"agrees": [1]}}}
    two = {"cases": {"x": kept}, "elsewhere": {"x": [{"integers": "c", "floats": "d", "drawn": False, "machine": 1}]}}
    other, rounded = {"integers": "e", "floats": "b"}, {"integers": "a", "floats": "e"}

    def explained(found: dict[str, Any], stored: dict[str, Any], here: int) -> bool | None:
        different, by_rounding = differences("x", found, {"machines": machines, **stored}, machines[here])
        return by_rounding if different else None

    assert [explained(other, stored, 0) for stored in (alone, agreed, two)] == [False] * 3
    assert [explained(rounded, stored, 0) for stored in (alone, agreed, two)] == [False] * 3
    assert [explained(rounded, stored, 1) for stored in (alone, agreed)] == [None] * 2
    assert [explained(other, stored, 1) for stored in (alone, agreed, two)] == [True, False, False]
    assert [explained(other, stored, 2) for stored in (alone, agreed, two)] == [True, False, True]
    assert explained({"integers": "c", "floats": "d"}, two, 1) is None


@pytest.mark.parametrize("name", decoding_cases())
def test_decoding(name: str) -> None:
    check(name, decoded(decoding_cases()[name], golden()))


@pytest.mark.parametrize("name", interface_cases())
def test_interfaces(name: str) -> None:
    check(name, called(name))


@pytest.mark.skipif(torch.accelerator.is_available(), reason="golden training steps are recorded on the CPU")
@pytest.mark.parametrize("name", training_cases())
def test_training(name: str) -> None:
    check(name, training_record(name))


# ---- Recording --------------------------------------------------------------------------------------------------------------


def write(*, force: bool) -> None:
    """Record cases into `golden.json`; those that are there stay as they are unless forced."""
    torch.set_num_threads(1)
    stored = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
    stored = {"machines": [], "problems": {}, "cases": {}, "elsewhere": {}} | stored
    if force:
        stored["machines"], stored["cases"], stored["elsewhere"] = [], {}, {}
    if machine() not in stored["machines"]:
        stored["machines"].append(machine())
    specs, calls, runs = decoding_cases(), interface_cases(), training_cases()
    for name in sorted({spec.denoiser for spec in specs.values()} - stored["problems"].keys()):
        tokens, x0 = make_problems(name)
        stored["problems"][name] = {"tokens": tokens.tolist(), "x0": x0.tolist()}
    names = {*specs, *calls, *runs}
    here, new = stored["machines"].index(machine()), sorted(names - stored["cases"].keys())
    for name in sorted(names):
        first, elsewhere = stored["cases"].get(name), stored["elsewhere"].get(name, [])
        seen = (
            [] if first is None else [first["machine"], *first.get("agrees", []), *(record["machine"] for record in elsewhere)]
        )
        if here in seen:
            continue
        record = decoded(specs[name], stored) if name in specs else called(name) if name in calls else training_record(name)
        if first is None:
            stored["cases"][name] = {**record, "machine": here}
        elif compare(record, first, same_machine=False):
            stored["elsewhere"][name] = [*elsewhere, {**record, "machine": here}]
        else:
            first["agrees"] = [*first.get("agrees", []), here]
    for name in sorted(stored["cases"].keys() - names):
        print(f"stored, but no longer a case (--force drops it): {name}")
    parts = []
    for key, value in stored.items():
        if isinstance(value, dict):
            inner = ",\n".join(f"{json.dumps(name)}: {json.dumps(value[name])}" for name in sorted(value))
            parts.append(f"{json.dumps(key)}: {{\n{inner}\n}}")
        else:
            parts.append(f"{json.dumps(key)}: {json.dumps(value)}")
    GOLDEN.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
    own = sum(record["machine"] == here for records in stored["elsewhere"].values() for record in records)
    print(f"{len(new)} cases recorded, {len(stored['cases']) - len(new)} kept, {own} of which rounding decides on this machine")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Record golden results.")
    parser.add_argument("--write", action="store_true", required=True, help="record cases that are missing")
    parser.add_argument("--force", action="store_true", help="record all cases again")
    write(force=parser.parse_args().force)
