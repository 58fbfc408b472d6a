"""Our transformer with a block-causal mask: its training pass, decoding in its blocks, the exact cache, likelihoods."""

import itertools
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import anyorder
from anyorder.decoding.blocks import open_block
from anyorder.decoding.combined_counts import IfUnsure
from anyorder.decoding.loop import decode
from anyorder.decoding.sampler import Sampler
from anyorder.decoding.step import StepOutput, predict, step
from anyorder.decoding.tokens import Argmax, Sample
from anyorder.denoisers.blocks import block_numbers
from anyorder.denoisers.transformer import Transformer
from anyorder.errors import BadInput
from anyorder.evaluation.likelihood import Process, estimate_bound, exact_bound, log_likelihood
from anyorder.interfaces.arguments import check_budget
from anyorder.orders.learned import Critic, LearnedOrder
from anyorder.registry import COUNT_RULES, ORDERS, POLICIES, REMASKERS, TOKEN_RULES
from anyorder.relations import EVERYTHING
from anyorder.state import DecodeState, init
from anyorder.training.data import one_block
from anyorder.training.fit import run_recipe
from anyorder.training.order import Batch
from anyorder.training.recipes import load_recipe

WORDS, MASK, PAD, BLOCK, LENGTH = 12, 10, 11, 4, 18


def model(length: int | None = BLOCK, words: int = WORDS, mask: int = MASK, width: int = 16, **settings: Any) -> Transformer:
    """With weights so large that tokens far away matter."""
    torch.manual_seed(0)
    found = Transformer(words, mask, 64, width, 2, [EVERYTHING] * 2, block_length=length, **settings)
    for weight in found.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=1.5 * weight.shape[1] ** -0.5)
    return found.eval()


def problems(rows: int = 4) -> Tensor:
    """A given start that ends within a block, and one with given tokens between masks, two blocks of them without any."""
    tokens = torch.randint(0, MASK, (rows, LENGTH), generator=torch.Generator().manual_seed(1))
    tokens[:, 6:] = MASK
    tokens[1, 2] = MASK
    tokens[2, 7:16] = 5
    tokens[3, :] = MASK
    return tokens


@torch.no_grad()
def test_one_training_pass_predicts_every_block_from_the_clean_ones_before_it() -> None:
    denoiser, clean = model(), torch.randint(0, MASK, (3, LENGTH), generator=torch.Generator().manual_seed(3))
    noised = torch.where(torch.rand(clean.shape, generator=torch.Generator().manual_seed(4)) < 0.5, MASK, clean)
    real = torch.ones_like(clean, dtype=torch.bool)
    real[1, 13:], real[2, :3] = False, False
    together = denoiser(noised, real, clean=clean).logits
    number = block_numbers(clean, real, BLOCK)
    for row, block in itertools.product(range(3), range(5)):
        inside = (number[row] == block) & real[row]
        alone = torch.where(number[row] < block, clean[row], noised[row])
        kept = (number[row] <= block) & real[row]
        logits = denoiser(alone[kept][None]).logits[0][inside[kept]]
        assert torch.allclose(together[row][inside], logits, atol=1e-4)


@torch.no_grad()
def test_nothing_behind_a_block_has_an_influence_on_it() -> None:
    denoiser, tokens = model(), problems()
    before = denoiser(tokens)
    after = denoiser(tokens.index_fill(1, torch.arange(8, LENGTH), 3))
    assert torch.equal(before.logits[:, :8], after.logits[:, :8])
    assert not torch.equal(before.logits[:, 8:], after.logits[:, 8:])


def learned(denoiser: Transformer, name: str) -> LearnedOrder:
    """A policy with random weights that reads hidden states of all positions."""
    torch.manual_seed(1)
    policy = POLICIES[name](hidden_size=denoiser.hidden_size, vocab_size=WORDS, max_length=64)
    for weight in policy.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return LearnedOrder(policy.eval())


SAMPLERS: dict[str, dict[str, Any]] = {
    **{name: {"order": name} for name in ("random", "confidence", "margin", "entropy", "info_gain")},
    **{name: {"order": "confidence", "remasker": name} for name in ("p2", "wino", "below")},
    **{name: {"order": "margin", "count": name} for name in ("threshold:0.3", "factor", "entropy_bound", "klass", "deadline")},
    "if_unsure": {"order": "margin", "count": IfUnsure(above=0.5, below=9)},
    "sampled": {"order": "confidence", "token": Sample(1.0), "noise": 0.5, "steps": 9},
    "in halves": {"order": "entropy", "block_length": 2},
    "few steps": {"order": "confidence", "steps": 3},
    "dapd": {"order": "confidence", "count": "dapd"},
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_exact_cache_changes_no_token(name: str) -> None:
    denoiser, sampler = model(), Sampler(**SAMPLERS[name])
    if name in ("info_gain", "dapd"):  # which work without the cache only
        with pytest.raises(BadInput, match="a cached pass shows no attention, and a look-ahead is not cached"):
            sampler.replace(cache="exact")
        assert not bool((decode(denoiser, problems(), sampler).tokens == MASK).any())
        return
    plain, cached = (decode(denoiser, problems(), each, seeds=3) for each in (sampler, sampler.replace(cache="exact")))
    assert torch.equal(plain.tokens, cached.tokens)
    assert torch.equal(plain.commit_step, cached.commit_step)
    assert torch.equal(plain.nfe, cached.nfe)


PARTS = {"order": ORDERS, "count": COUNT_RULES, "token": TOKEN_RULES, "remasker": REMASKERS}
REFUSED = "own: fit one|over the whole sequence|for whole sequences|needs (token|length)|a cached pass shows no attention"


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, parts in PARTS.items() for name in sorted(parts)])
def test_the_exact_cache_changes_no_token_with_any_part_that_works_in_blocks(kind: str, name: str) -> None:
    denoiser, x0 = model(), torch.randint(0, MASK, problems().shape, generator=torch.Generator().manual_seed(5))
    said, sampler = "", Sampler("random")
    try:
        sampler = Sampler(**{"order": "confidence", "cache": "exact", kind: name}).bind(denoiser)  # type: ignore[arg-type]
    except BadInput as error:
        said = str(error)
    if said:
        assert re.search(REFUSED, said), said
        return
    cached, plain = (decode(denoiser, problems(), each, seeds=3, x0=x0) for each in (sampler, sampler.replace(cache="none")))
    assert torch.equal(plain.tokens, cached.tokens) and torch.equal(plain.nfe, cached.nfe)
    assert not bool((plain.tokens == MASK).any())


@pytest.mark.parametrize("remasker", ["prism", "p2_critic:2"])
def test_a_critic_in_blocks_sees_the_same_with_the_cache(remasker: str) -> None:
    denoiser = model()
    torch.manual_seed(1)
    policy = POLICIES["lookahead"](hidden_size=16, vocab_size=WORDS, max_length=64, scores_committed=True)
    for weight in policy.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    order = LearnedOrder(policy.eval(), Critic(policy))
    found = [
        decode(denoiser, problems(), Sampler(order, remasker=remasker, cache=cache, steps=40)) for cache in ("none", "exact")
    ]
    assert torch.equal(found[0].tokens, found[1].tokens) and int(found[0].remasked.sum()) > 0


@pytest.mark.parametrize("policy", ["mlp", "lookahead", "score_hidden_transformer", "confidence_transformer", "upo"])
def test_the_exact_cache_changes_no_token_of_a_learned_order(policy: str) -> None:
    denoiser = model()
    order = learned(denoiser, policy)
    plain, cached = (decode(denoiser, problems(), Sampler(order, cache=cache)).tokens for cache in ("none", "exact"))
    assert torch.equal(plain, cached)
    assert not torch.equal(plain, decode(denoiser, problems(), "confidence").tokens)


@torch.no_grad()
@pytest.mark.parametrize("policy", ["mlp", "lookahead", "score_hidden_transformer"])
def test_a_policy_is_shown_each_block_as_in_training(policy: str) -> None:
    denoiser, seen = model(), []
    order = learned(denoiser, policy)
    decode(denoiser, problems(), Sampler(order), on_step=lambda output: seen.append((output.before, output.scores)))
    compared = 0
    for before, scores in seen:
        number = block_numbers(before.tokens, None, BLOCK).expand_as(before.tokens)
        now = number.masked_fill(~before.masked, LENGTH).amin(dim=1, keepdim=True)
        for row in (before.generated & (number == now) == before.masked & (number == now)).all(dim=1).nonzero()[:, 0].tolist():
            tokens, block = before.tokens[row : row + 1], (before.masked & (number == now))[row : row + 1]
            zero = torch.zeros(1, dtype=torch.int64)
            state = DecodeState.start(tokens, block, MASK, zero, before.steps[row : row + 1])
            batch = Batch(state, order.policy.memories, Argmax(), block_length=BLOCK)
            state, prediction = batch.see(*denoiser(tokens, None, state.masked))
            expected = order.policy(state, prediction)
            torch.testing.assert_close(scores[row][block[0]], expected[block], atol=1e-4, rtol=1e-4)
            compared += 1
    assert compared > 2 * len(problems())


@pytest.mark.parametrize("cache", ["none", "exact"])
@pytest.mark.parametrize("name", ["confidence", "in halves", "p2", "threshold:0.3"])
def test_only_the_open_block_changes_and_every_position_is_filled_once(name: str, cache: str) -> None:
    seen: list[StepOutput] = []
    denoiser, tokens = model(), problems()
    sampler = Sampler(**SAMPLERS[name]).replace(cache=cache)
    result = decode(denoiser, tokens, sampler, on_step=seen.append)
    length = sampler.block_length or BLOCK
    commits = torch.zeros_like(tokens)
    for output in seen:
        changed = output.before.tokens != output.after.tokens
        number = torch.arange(LENGTH) // length
        masked = output.before.masked
        assert bool((masked.any(dim=1)).all())
        first = torch.where(masked, number, LENGTH).amin(dim=1, keepdim=True)
        assert bool((number == first)[changed.nonzero(as_tuple=True)].all() if changed.any() else True)
        commits[output.before.row] += output.selected.long() - output.remasked.long()
    assert torch.equal(commits == 1, tokens == MASK) and int(commits.max()) == 1
    assert not bool((result.tokens == MASK).any())
    assert torch.equal(result.tokens[tokens != MASK], tokens[tokens != MASK])


def test_one_position_a_step_when_there_are_as_many_steps_as_masks() -> None:
    result = decode(model(), problems(), "confidence")
    assert torch.equal(result.nfe, (problems() == MASK).sum(dim=1))
    half = decode(model(), problems()[3:], Sampler("confidence", steps=9))
    assert half.nfe.tolist() == [9]


def test_rows_do_not_influence_one_another_whatever_the_padding() -> None:
    denoiser = model(pad_token_id=PAD)
    for side, cache in itertools.product(("left", "right"), ("none", "exact")):
        tokens = problems()
        for row, pad in enumerate((0, 3, 5, 2)):
            tokens[row, slice(pad) if side == "left" else slice(LENGTH - pad, LENGTH)] = PAD
        together = decode(denoiser, tokens, Sampler("random", cache=cache), seeds=torch.arange(4)).tokens
        for row in range(4):
            own = tokens[row][tokens[row] != PAD][None]
            alone = decode(denoiser, own, "random", seeds=torch.tensor([row])).tokens[0]
            assert torch.equal(together[row][tokens[row] != PAD], alone)


def test_blocks_are_those_of_the_mask() -> None:
    tokens = problems()
    state = init(tokens, MASK, model_block=BLOCK)
    assert open_block(state, BLOCK).nonzero()[:, 1].tolist() == [6, 7, 2, 6, 0, 1, 2, 3]
    assert open_block(state, 2).nonzero()[:, 1].tolist() == [6, 7, 2, 6, 0, 1]


def test_what_does_not_go_together_is_refused() -> None:
    denoiser, both = model(), model(None)
    for bad, said in (
        (lambda: decode(denoiser, problems(), "confidence@blocks:3"), "give a divisor of 4"),
        (lambda: decode(denoiser, problems(), "confidence@blocks:8"), "give a divisor of 4"),
        (lambda: decode(denoiser, problems(), "confidence@blocks:4@cache:dual"), "finished blocks are kept by cache='exact'"),
        (lambda: decode(both, problems(), "confidence@cache:exact@blocks:4"), "no cache of it is exact"),
        (lambda: Sampler("confidence", cache="exact", refresh=3), "an exact cache needs no refresh"),
        (lambda: decode(denoiser, problems(), "confidence+undo"), "no learned order|whole sequences|own order"),
        (lambda: decode(denoiser, problems(), "confidence+repredict"), "'repredict' is for whole sequences"),
        (lambda: model(0), "block_length is 0; it must be a whole number of positions, 1 or more"),
        (lambda: Transformer(9, 8, 8, 8, 1, ["row"], block_length=2), "heads must be everything"),
        (lambda: predict(denoiser, init(problems(), MASK), Sampler("confidence")), r"init\(..., model_block="),
        (
            lambda: predict(denoiser, init(problems(), MASK, model_block=BLOCK), Sampler("confidence")),
            "bind the sampler to it",
        ),
        (lambda: anyorder.generate(denoiser, problems()[0], steps=3), "steps 3 are too few for 4 blocks"),
        (lambda: check_budget(denoiser, problems(), None, 4, BLOCK), "steps 4 are too few for 5 blocks"),
    ):
        with pytest.raises(BadInput, match=said):
            bad()


def test_the_step_by_hand_is_that_of_decode() -> None:
    denoiser, tokens = model(), problems()[:1]
    sampler = Sampler("confidence").bind(denoiser)
    state = init(tokens, MASK, model_block=BLOCK)
    while not bool(state.finished.all()):
        with torch.no_grad():
            state, _ = step(state, predict(denoiser, state, sampler), sampler)
    assert torch.equal(state.tokens, decode(denoiser, tokens, sampler).tokens)


# ---- likelihood ---------------------------------------------------------------------------------------------------------


def small(block_length: int) -> Transformer:
    return model(block_length, 4, 3, 8)


@pytest.mark.parametrize("order", ["random", "max_confidence", "entropy"])
def test_likelihoods_of_all_sequences_sum_to_one_and_are_those_of_decoding(order: str) -> None:
    denoiser, tokens = small(2), torch.tensor([1, 3, 3, 3])
    process = Process(denoiser, ORDERS.make(order), 0.7)
    sequences = [torch.tensor([1, *words]) for words in itertools.product(range(3), repeat=3)]
    chances = torch.tensor([log_likelihood(process, tokens, x0) for x0 in sequences]).exp()
    assert abs(float(chances.sum()) - 1) < 1e-6
    draws = 4000
    sampler = Sampler(process.order, count="fixed:1", token=Sample(1.0), noise=0.7)
    drawn = decode(denoiser, tokens.expand(draws, -1).clone(), sampler).tokens
    for x0, chance in zip(sequences, chances.tolist(), strict=True):
        share = float((drawn == x0).all(dim=1).float().mean())
        assert abs(share - chance) < 4 * (chance * (1 - chance) / draws) ** 0.5 + 1e-4


def test_a_likelihood_is_the_sum_of_those_of_the_blocks() -> None:
    denoiser, x0 = small(2), torch.tensor([1, 0, 2, 2])
    process = Process(denoiser, ORDERS.make("max_confidence"), 0.7)
    whole = log_likelihood(process, torch.tensor([3, 3, 3, 3]), x0)
    first = log_likelihood(process, torch.tensor([3, 3]), x0[:2])
    second = log_likelihood(process, torch.tensor([1, 0, 3, 3]), x0)
    assert abs(whole - first - second) < 1e-6
    bound = exact_bound(process, torch.tensor([3, 3, 3, 3]), x0)
    assert bound.total <= whole + 1e-9
    estimate = estimate_bound(process, torch.tensor([3, 3, 3, 3]), x0, 400)
    assert abs(estimate.total - bound.total) < 4 * estimate.standard_error + 1e-6
    with pytest.raises(BadInput, match="use states='path'"):
        estimate_bound(process, torch.tensor([3, 3, 3, 3]), x0, 4, states="forward")


def test_blocks_of_one_are_an_autoregressive_model() -> None:
    denoiser, x0 = small(1), torch.tensor([1, 0, 2])
    by_hand = 0.0
    for place in range(3):
        logits = denoiser(torch.tensor([[*x0[:place].tolist(), 3]])).logits[0, -1].double().detach()
        by_hand += float(torch.log_softmax(logits, dim=0)[x0[place]])
    process = Process(denoiser, ORDERS.make("random"))
    assert abs(log_likelihood(process, torch.tensor([3, 3, 3]), x0) - by_hand) < 1e-5


# ---- training -----------------------------------------------------------------------------------------------------------


def test_a_policy_is_trained_on_one_block_with_the_known_ones_before_it() -> None:
    x0 = torch.arange(8).repeat(200, 1)
    tokens, generated = torch.full_like(x0, MASK), torch.ones_like(x0, dtype=torch.bool)
    tokens[:, :2], generated[:, :2] = x0[:, :2], False
    number = torch.arange(8).expand(200, -1) // 2
    chance = torch.rand(200, generator=torch.Generator().manual_seed(0))
    states, open_now, behind = one_block(x0, tokens, generated, number, chance)
    chosen = number.masked_fill(~open_now, -1).amax(dim=1)
    assert sorted(set(chosen.tolist())) == [1, 2, 3]
    assert torch.equal(open_now, number == chosen[:, None]) and torch.equal(behind, number > chosen[:, None])
    assert torch.equal(states, torch.where(number < chosen[:, None], x0, MASK))


def test_training_that_is_not_defined_in_blocks_is_refused() -> None:
    from anyorder.denoisers.wrapped import WrappedDenoiser
    from anyorder.training.denoiser import _check_takes_clean
    from anyorder.training.grpo import GrpoJob

    with pytest.raises(BadInput, match="grpo estimates likelihoods by one prediction of whole answers"):
        GrpoJob(None, model(), None)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="takes no clean tokens, which training in blocks needs"):
        _check_takes_clean(WrappedDenoiser(torch.nn.Embedding(5, 5), 4, 5, block_length=2))


def recipe(name: str, *changes: str) -> Any:
    return load_recipe(name, list(changes))


def test_the_recipe_trains_a_denoiser_and_an_order_on_it(tmp_path: Path) -> None:
    (tmp_path / "some.smi").write_text("CCO\nCCN\nc1ccccc1\nCC(=O)O\n")
    small = ["data.size=4", f"data.file={tmp_path / 'some.smi'}", "run.batch_size=4"]
    where = [*small, "denoiser.width=16", "denoiser.layers=1", "run.steps=3", "task.options.length=12"]
    folder = tmp_path / "run"
    assert run_recipe(recipe("moses-block-denoiser", *where), folder).finished
    denoiser = anyorder.load_denoiser(folder, device="cpu")
    assert denoiser.block_length == 8
    task = anyorder.task_for(denoiser)
    tokens = task.generate(2, 0).tokens
    caches = (decode(denoiser, tokens, Sampler("confidence", cache=cache), ends=task.stops_at) for cache in ("none", "exact"))
    assert len({tuple(found.tokens.flatten().tolist()) for found in caches}) == 1
    for states in ("uniform", "model"):
        fitted = recipe("moses-order", *small, f"denoiser={folder}", "run.steps=2", f"objective.states={states}",
                        "task.options.length=12", "task.options.free_length=true")  # fmt: skip
        assert run_recipe(fitted, tmp_path / states).finished
        order = anyorder.load_order(tmp_path / states, denoiser)
        assert not bool((decode(denoiser, tokens, order).tokens == task.mask_token_id).any())


def test_blocks_of_one_text_are_masked_at_times_of_their_own() -> None:
    from anyorder.training.denoiser import DenoiserJob

    job = object.__new__(DenoiserJob)
    job.denoiser, job.schedule = model(), anyorder.diffusion.LinearSchedule()
    import numpy as np

    times = job._times(torch.zeros(64, 10, dtype=torch.int64), np.random.default_rng(0), 64)
    assert times.shape == (64, 10)
    assert bool((times[:, :4] == times[:, :1]).all()) and bool((times[:, 8:] == times[:, 8:9]).all())
    assert bool((times[:, 0] != times[:, 4]).any())
    assert 0.35 < float(times[:, [0, 4, 8]].mean()) < 0.65 and float(times.max()) > 0.9 and float(times.min()) < 0.1


def test_the_recipe_says_what_the_docs_say() -> None:
    text = (Path(anyorder.__file__).parent / "recipes" / "moses-block-denoiser.toml").read_text()
    assert tomllib.loads(text)["denoiser"]["block_length"] == 8
    assert set(COUNT_RULES) >= {"threshold", "klass"}
