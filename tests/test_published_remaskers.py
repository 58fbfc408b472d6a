"""Published remaskers against transcriptions of their pseudo-code, and against distributions that are enumerated."""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from anyorder.decoding.loop import decode
from anyorder.decoding.published_remaskers import P2, Below, CriticP2, DenoiserCritic, Prism, WideIn, Wino
from anyorder.decoding.remaskers import Remasker
from anyorder.decoding.remdm import SCHEDULES, ReMDM
from anyorder.decoding.result import History
from anyorder.decoding.sampler import Sampler
from anyorder.decoding.step import StepOutput
from anyorder.denoisers.transformer import Transformer
from anyorder.errors import BadInput
from anyorder.evaluation.enumeration import TableDenoiser
from anyorder.prediction import Prediction
from anyorder.state import DecodeState, init

WORDS, LENGTH = 2, 6
Probabilities = list[list[float]]


def table(seed: int, length: int = LENGTH, scale: float = 2.0) -> TableDenoiser:
    """A denoiser whose prediction in each state is its own, at visible positions too."""
    generator = torch.Generator().manual_seed(seed)
    shape = ((WORDS + 1) ** length, length, WORDS + 1)
    return TableDenoiser(scale * torch.randn(shape, generator=generator, dtype=torch.float64))


def probabilities(denoiser: TableDenoiser, tokens: list[int]) -> Probabilities:
    """p(word | tokens) at each position, in plain numbers."""
    logits = denoiser(torch.tensor([tokens])).logits[0, :, :WORDS]
    return [[math.exp(v) / sum(math.exp(w) for w in row) for v in row] for row in logits.tolist()]


def history(denoiser: TableDenoiser, sampler: Sampler) -> list[list[int]]:
    """The tokens before each step and after the last one."""
    masks = torch.full((1, denoiser.length), WORDS)
    seen = History(masks)
    decode(denoiser, masks, sampler, on_step=seen)
    return [tokens[0].tolist() for tokens in seen.tokens]


def remaskings(states: list[list[int]]) -> int:
    return sum(x != WORDS and y == WORDS for a, b in itertools.pairwise(states) for x, y in zip(a, b, strict=True))


# ---- P2 -------------------------------------------------------------------------------------------------------------


def p2_as_published(denoiser: TableDenoiser, steps: int, eta: float, planner: TableDenoiser | None) -> list[list[int]]:
    """Algorithm 1 of arXiv 2502.03540 with the likeliest tokens and kappa(t) = t."""
    x = [WORDS] * denoiser.length
    states = [list(x)]
    for i in range(1, steps + 1):
        p = probabilities(denoiser, x)
        z = [max(range(WORDS), key=lambda w, j=j: p[j][w]) if v == WORDS else v for j, v in enumerate(x)]
        judged = p if planner is None else probabilities(planner, z)
        score = [math.log(p[j][z[j]]) if x[j] == WORDS else eta * math.log(judged[j][z[j]]) for j in range(len(x))]
        number = math.floor(len(x) * (1 - i / steps) + 1e-9)  # 6 * (1 - 5 / 6) is below 1
        lowest = sorted(range(len(x)), key=lambda j: score[j])[:number]
        x = [WORDS if j in lowest else z[j] for j in range(len(x))]
        states.append(list(x))
    return states


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 3.0])
def test_p2_is_its_algorithm(eta: float, external: bool) -> None:
    remasked = 0
    for seed in range(12):
        denoiser, planner = table(seed), table(100 + seed) if external else None
        remasker = P2(eta, None if planner is None else DenoiserCritic(planner))
        found = history(denoiser, Sampler("confidence", remasker=remasker, steps=6))
        assert found == p2_as_published(denoiser, 6, eta, planner)
        remasked += remaskings(found)
    assert (remasked > 10) == (eta > 0) and (remasked > 0) == (eta > 0)


@pytest.mark.parametrize("rule", ["linear", "fixed:2", "threshold:0.7"])
def test_p2_without_remasking_is_plain_decoding_with_any_order(rule: str) -> None:
    for order, seed in itertools.product(("random", "margin", "entropy"), range(4)):
        plain = Sampler(order, rule, steps=6)
        assert history(table(seed), plain.replace(remasker=P2(0.0))) == history(table(seed), plain)


def test_p2_commits_as_many_as_the_count_rule_grants() -> None:
    for order in ("random", "margin"):
        for state in itertools.pairwise(history(table(1), Sampler(order, "fixed:2", remasker=P2(3.0)))):
            before, after = (sum(v != WORDS for v in tokens) for tokens in state)
            assert after == before + 2


def critic_of_words(state: DecodeState, prediction: Prediction) -> Tensor:
    """A critic that doubts word 1, and more so at the end."""
    return 3.0 - (state.tokens == 1) * (4.0 + state.index)


def test_p2_takes_a_critic_as_planner() -> None:
    found = history(table(3), Sampler("confidence", remasker=CriticP2(9.0, critic_of_words), steps=6))
    for before, after in itertools.pairwise(found):
        quality = [3.0 - (v == 1) * (4.0 + j) for j, v in enumerate(before)]
        gone = [quality[j] for j, v in enumerate(before) if v != WORDS and after[j] == WORDS]
        kept = [quality[j] for j, v in enumerate(before) if v != WORDS and after[j] != WORDS]
        assert max(gone, default=-math.inf) <= min(kept, default=math.inf)
    assert remaskings(found)


def test_a_planner_of_another_vocabulary_is_refused() -> None:
    wide = TableDenoiser(torch.zeros(1, 1, 7))
    wide.forward = lambda tokens, mask, at: TableDenoiser.forward(table(0), tokens, mask, at)._replace(  # type: ignore[method-assign]
        logits=torch.zeros(int(at.sum()), 7)
    )
    with pytest.raises(BadInput, match="the planner has 7 words, and the denoiser 3"):
        history(table(0), Sampler("confidence", remasker=P2(1.0, DenoiserCritic(wide)), steps=6))


def test_a_sampler_with_another_denoiser_in_it_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be saved"):
        Sampler("confidence", remasker=P2(1.0, DenoiserCritic(table(0)))).save_pretrained(tmp_path / "s")
    assert not (tmp_path / "s").exists()


# ---- ReMDM ----------------------------------------------------------------------------------------------------------


def remdm_as_published(
    denoiser: TableDenoiser, steps: int, schedule: str, eta: float, loop: tuple[float, ...]
) -> dict[Any, float]:
    """The exact distribution of the outcome, by following every branch of the sampler of arXiv 2503.00307."""
    t_on, t_off, alpha_on = loop
    branches = {((WORDS,) * denoiser.length, (0.0,) * denoiser.length): 1.0}  # tokens, and psi where they are committed
    for i in range(steps):
        t, s = 1 - i / steps, 1 - (i + 1) / steps
        alpha_t, alpha_s = 1 - t, 1 - s
        looping = schedule == "loop" and t_off < t <= t_on
        if schedule == "loop" and t > t_on:
            alpha_t, alpha_s = (1 - t) * alpha_on / (1 - t_on), (1 - s) * alpha_on / (1 - t_on)
        elif schedule == "loop" and t <= t_off:
            alpha_t, alpha_s = 1 - t * (1 - alpha_on) / t_off, 1 - s * (1 - alpha_on) / t_off
        elif looping:
            alpha_t = alpha_s = alpha_on
        most = min(1.0, (1 - alpha_s) / alpha_t) if alpha_t > 0 else 1.0
        sigma = {"cap": min(eta, most), "rescale": eta * most, "conf": eta * most, "loop": eta if looping else 0.0}[schedule]
        following: dict[Any, float] = defaultdict(float)
        for (x, psi), mass in branches.items():
            p = probabilities(denoiser, list(x))
            total = sum(math.exp(-c) for v, c in zip(x, psi, strict=True) if v != WORDS)
            choices = []
            for j, v in enumerate(x):
                if v != WORDS:
                    gone = sigma * math.exp(-psi[j]) / total if schedule == "conf" else sigma
                    choices.append([(v, psi[j], 1 - gone), (WORDS, 0.0, gone)])
                else:
                    own = 0.0 if schedule == "conf" else sigma
                    up = min(1.0, (alpha_s - (1 - own) * alpha_t) / (1 - alpha_t))
                    choices.append([(w, p[j][w], up * p[j][w]) for w in range(WORDS)] + [(WORDS, 0.0, 1 - up)])
            for chosen in itertools.product(*choices):
                share = math.prod(c[2] for c in chosen)
                if share > 0:
                    following[tuple(c[0] for c in chosen), tuple(c[1] for c in chosen)] += mass * share
        branches = following
    outcome: dict[Any, float] = defaultdict(float)
    for (x, _), mass in branches.items():
        outcome[x] += mass
    return outcome


def distance(one: dict[Any, float], other: dict[Any, float]) -> float:
    """Total variation."""
    return sum(abs(one.get(x, 0.0) - other.get(x, 0.0)) for x in {*one, *other}) / 2


@pytest.mark.parametrize(("schedule", "eta"), [("cap", 0.4), ("rescale", 0.8), ("conf", 1.0), ("loop", 0.5)])
def test_remdm_has_the_published_distribution(schedule: str, eta: float) -> None:
    denoiser, steps, count, loop = table(5, length=3), 5, 20_000, (0.7, 0.3, 0.6)
    exact = remdm_as_published(denoiser, steps, schedule, eta, loop)
    sampler = Sampler("confidence", token="sample", remasker=ReMDM(schedule, eta, *loop), steps=steps)
    out = decode(denoiser, torch.full((count, 3), WORDS), sampler)
    shares: dict[Any, float] = defaultdict(float)
    for x in out.tokens.tolist():
        shares[tuple(x)] += 1 / count
    assert sum(exact.values()) == pytest.approx(1.0)
    assert distance(exact, shares) < 0.015
    assert distance(exact, remdm_as_published(denoiser, steps, "cap", 0.0, loop)) > 0.03, "remasking makes a difference"


def test_remdm_without_strength_is_the_ancestral_sampler() -> None:
    denoiser, loop = table(5, length=3), (0.5, 0.5, 0.5)
    plain = remdm_as_published(denoiser, 4, "cap", 0.0, loop)
    for schedule in ("rescale", "conf", "loop"):
        assert distance(plain, remdm_as_published(denoiser, 4, schedule, 0.0, loop)) < 1e-12
    outs = [
        decode(denoiser, torch.full((500, 3), WORDS), Sampler("random", token="sample", remasker=ReMDM(name, 0.0), steps=4))
        for name in ("cap", "rescale", "conf")
    ]
    assert all(out.remasked.sum() == 0 and out.tokens.equal(outs[0].tokens) for out in outs)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_remdm_uses_its_budget_after_the_sequence_is_complete(schedule: str) -> None:
    sampler = Sampler("confidence", "fixed:6", token="sample", remasker=ReMDM(schedule, 0.3, 0.8, 0.4, 0.5), steps=10)
    out = decode(table(0), torch.full((64, LENGTH), WORDS), sampler)
    assert (out.tokens != WORDS).all() and out.remasked.sum() > 20
    assert out.nfe.min() >= (6 if schedule == "loop" else 9), "it was complete after one step"


def test_with_the_linear_rule_remdm_follows_the_schedule() -> None:
    outputs: list[StepOutput] = []
    sampler = Sampler("confidence", "linear", remasker=ReMDM("rescale", 0.9), steps=6)
    decode(table(0), torch.full((8, LENGTH), WORDS), sampler, on_step=outputs.append)
    for output, left in zip(outputs, (5, 4, 3, 2, 1, 0), strict=True):
        remasked = output.remasked.sum(dim=1)
        assert output.after.masked.sum(dim=1).tolist() == remasked.clamp(min=left).tolist(), (
            "as far as there are others to unmask"
        )
    assert sum(int(output.remasked.sum()) for output in outputs) > 8


# ---- WINO -----------------------------------------------------------------------------------------------------------


def wino_as_published(denoiser: TableDenoiser, block: int, wide: float, narrow: float, most: int = 99) -> list[list[int]]:
    """The authors' decoding, with the prediction at the visible position in place of the appended mask's."""
    x = [WORDS] * denoiser.length
    states = [list(x)]
    for start in range(0, len(x), block):
        inside = range(start, start + block)
        last_accept = 30
        while any(x[j] == WORDS for j in inside):
            masked = [j for j in inside if x[j] == WORDS]
            max_accept = min(max(int(len(masked) * 0.7), 5), 20)
            p = probabilities(denoiser, x)
            back = {j: p[j][x[j]] for j in inside if x[j] != WORDS}
            confidence = {j: max(p[j]) for j in masked}
            accept = [j for j in masked if confidence[j] > wide]
            if len(accept) > max_accept:
                accept = sorted(masked, key=lambda j: -confidence[j])[:max_accept]
            if not accept:
                accept = [max(masked, key=lambda j: confidence[j])]
            remask: list[int] = []
            if len(accept) > 1:
                remask = sorted((j for j in back if back[j] < narrow), key=lambda j: back[j])
                if len(remask) >= last_accept:
                    remask = remask[: last_accept - 1]
            for j in accept:
                x[j] = max(range(WORDS), key=lambda w, j=j: p[j][w])
            for j in remask:
                x[j] = WORDS
            last_accept = len(accept)
            states.append(list(x))
    return states


@pytest.mark.parametrize("block", [4, 8])
@pytest.mark.parametrize(("wide", "narrow"), [(0.7, 0.9), (0.8, 1.0), (0.9, 0.95)])
def test_wino_is_its_algorithm(block: int, wide: float, narrow: float) -> None:
    remasked = 0
    for seed in range(8):
        denoiser = table(seed, length=8)
        expected = wino_as_published(denoiser, block, wide, narrow)
        sampler = Sampler("confidence", remasker=Wino(wide, narrow), steps=len(expected) + 5, block_length=block)
        assert history(denoiser, sampler) == expected
        remasked += remaskings(expected)
    assert remasked > 1


def test_wide_in_is_limited_to_a_share_of_the_masked_positions() -> None:
    scores = torch.linspace(-1, 0, 30)[None]
    state = init(torch.zeros(1, 30, dtype=torch.int64), 0)
    for level, expected in ((0.1, 20), (0.95, 1)):
        prediction = Prediction(torch.tensor([[-torch.inf, 2.0, 0.0]]).repeat(30, 1), torch.zeros(1, 30, 1), state.masked)
        chosen = WideIn(level)(scores, state, prediction, torch.zeros(1, dtype=torch.int64))
        assert chosen[0].nonzero()[:, 0].tolist() == list(range(30 - expected, 30))
    few = scores.masked_fill(torch.arange(30) < 20, -torch.inf)
    assert WideIn(0.1)(few, state, prediction, torch.zeros(1, dtype=torch.int64)).sum() == 7


# ---- the others -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [None, 3])
def test_below_remasks_every_committed_token_under_the_level(block: int | None) -> None:
    outputs: list[StepOutput] = []
    denoiser = table(2)
    sampler = Sampler("confidence", remasker=Below(0.4), steps=12, block_length=block)
    decode(denoiser, torch.full((1, LENGTH), WORDS), sampler, on_step=outputs.append)
    for output in outputs[:-1]:
        x = output.before.tokens[0].tolist()
        p = probabilities(denoiser, x)
        first = next(j for j, v in enumerate(x) if v == WORDS) // (block or LENGTH) * (block or LENGTH)
        inside = range(first, first + (block or LENGTH))
        closes = block is not None and output.before.step.item() % block == block - 1  # a block's last step remasks nothing
        doubted = [not closes and j in inside and v != WORDS and p[j][v] < 0.4 for j, v in enumerate(x)]
        assert output.remasked[0].tolist() == doubted
    assert not outputs[-1].remasked.any() and sum(int(o.remasked.sum()) for o in outputs) >= 2


def test_prism_remasks_the_worst_and_the_linear_rule_makes_up_for_it() -> None:
    outputs: list[StepOutput] = []
    sampler = Sampler("confidence", remasker=Prism(2, critic_of_words), steps=6)
    decode(table(4), torch.full((1, LENGTH), WORDS), sampler, on_step=outputs.append)
    for output in outputs[:-1]:
        x = output.before.tokens[0].tolist()
        quality = {j: critic_of_words(output.before, output.prediction)[0, j].item() for j, v in enumerate(x) if v != WORDS}
        assert output.remasked[0].nonzero()[:, 0].tolist() == sorted(sorted(quality, key=lambda j: quality[j])[:2])
    assert [int(output.remasked.sum()) for output in outputs] == [0, 1, 2, 2, 2, 0]
    assert [int(output.after.masked.sum()) for output in outputs] == [5, 4, 3, 2, 2, 0]  # only 4 were masked, 2 of them again


IN_BLOCKS: dict[str, Callable[[], Remasker]] = {
    "below": lambda: Below(0.5),
    "wino": lambda: Wino(0.8, 1.0),
    "p2": lambda: P2(3.0),
    "p2_critic": lambda: CriticP2(3.0, critic_of_words),
    "prism": lambda: Prism(1, critic_of_words),
}


@pytest.mark.parametrize("name", IN_BLOCKS)
def test_in_blocks_a_finished_block_stays(name: str) -> None:
    remasked = 0
    for seed in range(6):
        sampler = Sampler("confidence", remasker=IN_BLOCKS[name](), steps=12, block_length=4)
        states = history(table(seed, length=8), sampler)
        for before, after in itertools.pairwise(states):
            assert WORDS in before[:4] or before[:4] == after[:4]
            assert WORDS not in before[:4] or WORDS not in after or set(after[4:]) == {WORDS}, "the next block is not open yet"
        remasked += remaskings(states)
    assert remasked


@pytest.mark.parametrize("name", IN_BLOCKS)
def test_with_a_cache_that_is_always_fresh_nothing_changes(name: str, tiny_transformer: Transformer) -> None:
    masks = torch.zeros(3, 8, dtype=torch.int64)
    plain = Sampler("confidence", remasker=IN_BLOCKS[name](), steps=10, block_length=4)
    expected = decode(tiny_transformer, masks, plain)
    found = decode(tiny_transformer, masks, plain.replace(cache="dual", refresh=1))
    assert found.tokens.equal(expected.tokens) and found.commit_step.equal(expected.commit_step)
    stale = decode(tiny_transformer, masks, plain.replace(cache="dual"))
    assert (stale.tokens != 0).all() and stale.nfe.max() <= 10


def test_remdm_in_blocks_is_refused() -> None:
    with pytest.raises(BadInput, match=r"'remdm:loop' is for whole sequences.*use the remasker 'none' in blocks"):
        Sampler.parse("random+remdm:loop@blocks:4")


def test_a_prediction_without_committed_probabilities_is_refused(make_state: Any) -> None:
    state, prediction = make_state([[0.1, 0.9]])
    with pytest.raises(BadInput, match="make it with predict"):
        Below().remask(state, prediction)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("random+remdm:often", "schedule is 'often'; it must be one of cap, rescale, conf, loop"),
        ("random+remdm:cap:2", "eta is 2.0"),
        ("random+remdm:loop:0.1:0.2:0.4", "t_off must be at most t_on"),
        ("random+remdm:loop:alpha_on=1", "t_on and alpha_on below 1"),
        ("random+remdm:loop:alpha_on=0", "alpha_on is 0.0"),
        ("confidence+p2:-1", "eta is -1.0"),
        ("confidence+wino:2", "wide is 2.0"),
        ("confidence+wino:0.5:nan", "narrow is nan"),
        ("confidence+below:7", "level is 7.0"),
        ("policy+prism:-1", "count is -1"),
    ],
)
def test_settings_out_of_range_are_refused(text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        Sampler.parse(text)
