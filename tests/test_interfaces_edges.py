"""What all calls have in common: budgets are kept, edges are one clear error each, prompts come in any form."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import anyorder
from anyorder.decoding.counts import EvenBlocks
from anyorder.denoisers.wrapped import WrappedDenoiser
from anyorder.errors import BadInput
from anyorder.interfaces import llada
from anyorder.interfaces.dream import DreamOutput, diffusion_generate
from anyorder.interfaces.infill import infill
from anyorder.interfaces.transformers import as_generator

WORDS, MASK, PAD = 12, 11, 0


class Counting(nn.Module):
    """Random logits of each token and place, and the number of masks before every forward pass."""

    def __init__(self, words: int = WORDS, mask: int = MASK) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.places = nn.Embedding(words, words), nn.Embedding(64, words)
        self.mask, self.seen = mask, list[int]()

    def forward(self, tokens: Tensor) -> Tensor:
        self.seen.append(int((tokens == self.mask).sum()))
        return self.words(tokens.roll(1, dims=1)) + self.places(torch.arange(tokens.shape[1]))


def counted(run: Callable[[WrappedDenoiser], Any]) -> tuple[Any, list[int]]:
    """What a call returns, and how many tokens each of its forward passes committed."""
    net = Counting()
    found = run(WrappedDenoiser(net, MASK, WORDS))
    return found, [before - after for before, after in zip(net.seen, [*net.seen[1:], 0], strict=True)]


# ---- budgets ------------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.booleans(), min_size=1, max_size=14), st.integers(1, 4), st.integers(1, 5), st.integers(1, 4),
    st.sampled_from(["llada", "generate", "as_generator"]), st.sampled_from(["confidence", "random"]),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_no_step_commits_more_than_an_even_share_of_all_masks(
    holes: list[bool], blocks: int, block_length: int, per_block: int, call: str, order: str
) -> None:
    """Masks inside the prompt and new ones alike; the last pass has its share like all others."""
    prompt = torch.tensor([[3, *(MASK if hole else 4 for hole in holes)]])
    new = blocks * block_length
    total = new + sum(holes)
    every = -(-total // block_length)
    steps = per_block * blocks * every
    calls: dict[str, Any] = {
        "llada": lambda d: llada.generate(d, prompt, None, steps, new, block_length, order=order),
        "generate": lambda d: anyorder.generate(
            d, prompt, max_new_tokens=new, steps=steps, block_length=block_length, order=order
        ),
        "as_generator": lambda d: as_generator(d).generate(
            prompt, max_new_tokens=new, steps=steps, block_length=block_length, order=order
        ),
    }
    tokens, commits = counted(calls[call])
    assert (tokens != MASK).all() and torch.equal(tokens[:, : prompt.shape[1]][prompt != MASK], prompt[prompt != MASK])
    assert sum(commits) == total and len(commits) <= steps
    assert max(commits) <= math.ceil(block_length / min(steps // every, block_length))


@given(st.lists(st.booleans(), min_size=1, max_size=14), st.integers(0, 9), st.integers(1, 25), st.sampled_from(["", "0.9999"]))
@settings(max_examples=60, deadline=None)
def test_without_blocks_every_step_commits_an_even_share(holes: list[bool], new: int, steps: int, threshold: str) -> None:
    prompt = torch.tensor([[3, *(MASK if hole else 4 for hole in holes)]])
    total = new + sum(holes)
    if total == 0:
        return
    how: dict[str, Any] = {"max_new_tokens": new, "steps": steps, "threshold": float(threshold) if threshold else None}
    _, commits = counted(lambda d: anyorder.generate(d, prompt, **how))
    assert sum(commits) == total and len(commits) == min(steps, total)
    assert max(commits) <= math.ceil(total / steps)
    _, one_each = counted(lambda d: anyorder.generate(d, prompt, max_new_tokens=new))
    assert one_each == [1] * total


@given(
    st.lists(st.booleans(), min_size=1, max_size=14), st.integers(0, 9), st.integers(1, 25), st.sampled_from([1e-3, 0.2]),
    st.sampled_from(["maskgit_plus", "entropy", None]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_dream_s_timesteps_are_kept(holes: list[bool], new: int, steps: int, eps: float, alg: str | None) -> None:
    prompt = torch.tensor([[3, *(MASK if hole else 4 for hole in holes)]])
    left = new + sum(holes)
    if left == 0:
        return
    how: dict[str, Any] = {"order": "left_to_right"} if alg is None else {"alg": alg}
    _, commits = counted(lambda d: diffusion_generate(d, prompt, max_new_tokens=new, steps=steps, eps=eps, **how))
    times = torch.linspace(1, eps, steps + 1)
    for step, committed in enumerate(commits):
        share = int(torch.tensor(float(left)) * (1 - times[step + 1] / times[step])) if step < steps - 1 else left
        assert committed == share
        left -= committed
    assert left == 0


def test_holes_of_texts_are_filled_at_an_even_pace() -> None:
    task: Any = anyorder.make_task("text", length=30)
    net = Counting(task.vocab_size, task.mask_token_id)
    denoiser = WrappedDenoiser(net, task.mask_token_id, task.vocab_size, pad_token_id=task.pad_token_id)
    infill(denoiser, "a_{7} b_{6}", "confidence", steps=4, task=task)
    assert net.seen == [13, 10, 7, 4]
    net.seen.clear()
    infill(denoiser, "a_{7} b_{6}", "confidence@blocks:4", steps=4, task=task)
    assert net.seen == [13, 9, 5, 1]
    with pytest.raises(BadInput, match="steps 3 are too few for 4 blocks of 4, in which 13 positions are to be filled: give 4"):
        infill(denoiser, ["a_{7} b_{6}", "a_"], "confidence@blocks:4", steps=3, task=task)


def test_blocks_that_the_budget_does_not_reach_are_refused() -> None:
    holes = torch.tensor([[3, MASK, MASK, MASK, 4]])
    for run in (
        lambda d: llada.generate(d, holes, None, 2, 8, 4),
        lambda d: anyorder.generate(d, holes, max_new_tokens=8, steps=2, block_length=4),
        lambda d: anyorder.generate(d, holes, max_new_tokens=8, sampler=anyorder.Sampler("margin", steps=2, block_length=4)),
    ):
        with pytest.raises(BadInput, match="steps 2 are too few for 3 blocks of 4, in which 11 positions are to be filled"):
            counted(run)


def test_rows_with_other_numbers_of_holes_have_blocks_of_their_own() -> None:
    prompts = torch.tensor([[3, MASK, MASK, MASK, 4, MASK], [3, 4, 4, 4, 4, 4]])
    together, _ = counted(lambda d: llada.generate(d, prompts, None, 12, 8, 4))
    for row in range(2):
        alone, _ = counted(lambda d: llada.generate(d, prompts[row : row + 1], None, 12, 8, 4))  # noqa: B023
        assert torch.equal(alone[0], together[row])
    assert EvenBlocks(4) == anyorder.Linear().in_blocks(4)


# ---- edges --------------------------------------------------------------------------------------------------------------

PROMPT = torch.tensor([[2, 7, 8], [2, 9, 6]])
LLADA: dict[str, Any] = {"steps": 4, "gen_length": 8, "block_length": 4}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"gen_length": 0}, r"nothing to generate: the prompts hold no mask \(11\); give gen_length"),
        ({"gen_length": -4}, "gen_length is -4; it must be a whole number, 0 or more"),
        ({"block_length": 0}, "block_length is 0; it must be a whole number, 1 or more"),
        ({"block_length": 2.0}, "block_length is 2.0"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": True}, "steps is True"),
        ({"temperature": math.inf}, "temperature is inf; it must be a finite number, 0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"cfg_scale": math.nan}, "cfg_scale is nan"),
        ({"cfg_scale": math.inf}, "cfg_scale is inf"),
        ({"threshold": 1.5}, "threshold is 1.5; it is a probability"),
        ({"threshold": math.nan}, "threshold is nan"),
        ({"logits_eos_inf": True}, "eos_id is 126081, and the model's vocabulary has 12 tokens"),
        ({"confidence_eos_eot_inf": True, "eos_id": 1}, "eot_id is 126348"),
        ({"prompt": []}, "at least one sequence"),
        ({"prompt": "a"}, "the prompts must be token ids"),
        ({"prompt": [[2, 7.5]]}, "whole numbers"),
        ({"prompt": PROMPT.float()}, "they must be int64"),
    ],
)
def test_edges_of_llada_s_call(how: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        counted(lambda d: llada.generate(d, **{"prompt": PROMPT, **LLADA, **how}))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"temperature": math.inf}, "temperature is inf"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"alg_temp": math.inf}, "alg_temp is inf"),
        ({"eps": math.nan}, "eps is nan"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"num_return_sequences": 0}, "num_return_sequences is 0"),
        ({"top_p": math.nan, "temperature": 1.0}, "top_p is nan"),
        ({"max_new_tokens": 2.0}, "max_new_tokens is 2.0"),
    ],
)
def test_edges_of_dream_s_call_and_of_generate(how: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        counted(lambda d: diffusion_generate(d, PROMPT, **{"max_new_tokens": 4, "steps": 4, **how}))
    if not {"alg_temp", "eps"} & how.keys():
        with pytest.raises(BadInput, match=message):
            counted(lambda d: anyorder.generate(d, PROMPT, **{"max_new_tokens": 4, "steps": 4, **how}))


@pytest.mark.parametrize("temperature", [1e-320, 1e-40, 0])
def test_a_temperature_that_divides_by_nothing_is_that_of_the_likeliest_token(temperature: float) -> None:
    """So it is in LLaDA's code: the noise to the power of such a temperature is 1."""
    for run in (
        lambda d, t: llada.generate(d, PROMPT, **LLADA, temperature=t),
        lambda d, t: diffusion_generate(d, PROMPT, max_new_tokens=4, steps=4, temperature=t, alg="entropy", top_p=0.9),
        lambda d, t: anyorder.generate(d, PROMPT, max_new_tokens=4, temperature=t),
    ):
        assert torch.equal(counted(lambda d: run(d, temperature))[0], counted(lambda d: run(d, 0.0))[0])  # noqa: B023


def test_prompts_that_are_longer_than_the_model_are_refused() -> None:
    model = anyorder.Transformer(12, 11, 10, width=8, layers=1, heads=["everything"] * 2).eval()
    for run in (
        lambda: llada.generate(model, PROMPT, **LLADA),
        lambda: anyorder.generate(model, PROMPT, max_new_tokens=8),
        lambda: diffusion_generate(model, PROMPT, max_new_tokens=8),
    ):
        with pytest.raises(BadInput, match=r"takes 10 tokens at most; .* and new tokens are 11"):
            run()


def test_masks_of_the_prompt_alone_are_filled_without_new_tokens() -> None:
    holes = torch.tensor([[2, MASK, MASK, 8]])
    filled, commits = counted(lambda d: llada.generate(d, holes, None, 2, 0, 1))
    assert filled.shape == (1, 4) and commits == [1, 1]


# ---- forms --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["llada", "dream", "generate"])
def test_prompts_come_in_any_form(call: str) -> None:
    denoiser = WrappedDenoiser(Counting(), MASK, WORDS, pad_token_id=PAD)

    def run(prompts: Any, attention_mask: Any = None) -> Any:
        if call == "llada":
            return llada.generate(denoiser, prompts, attention_mask, **LLADA)
        if call == "dream":
            return diffusion_generate(
                denoiser, prompts, attention_mask=attention_mask, max_new_tokens=8, steps=4, alg="entropy"
            )
        return anyorder.generate(denoiser, prompts, attention_mask, max_new_tokens=8, steps=4)

    expected = run(PROMPT)
    for same in (PROMPT.numpy(), PROMPT.numpy().astype(np.int32), PROMPT.int(), {"input_ids": PROMPT}):
        assert torch.equal(run(same), expected)
    listed = run(PROMPT.tolist())
    assert isinstance(listed, list) and torch.equal(torch.stack(listed), expected)
    assert torch.equal(run([2, 7, 8]), expected[0]) and torch.equal(run(PROMPT[0]), expected[0])
    lengths = run([[2, 7, 8], [9, 6]])
    assert [len(row) for row in lengths] == [11, 10]
    assert torch.equal(lengths[1], run([9, 6]))
    masked = {"input_ids": PROMPT, "token_type_ids": PROMPT * 0, "attention_mask": PROMPT * 0 + 1}
    assert torch.equal(run(masked), expected)
    padded = torch.tensor([[2, 7, 8], [PAD, 9, 6]])
    assert torch.equal(run(padded)[1, 1:], run([9, 6])), "the denoiser knows its padding"
    assert torch.equal(run(padded, (padded != PAD).long())[1, 1:], run([9, 6]))


def test_several_sequences_of_each_prompt() -> None:
    denoiser = WrappedDenoiser(Counting(), MASK, WORDS)
    how: dict[str, Any] = {"max_new_tokens": 4, "steps": 4, "temperature": 1.0, "seed": 5}
    for call in (anyorder.generate, diffusion_generate):
        rows: Any = call(denoiser, PROMPT, num_return_sequences=3, **how)
        assert rows.shape == (6, 7) and len({tuple(row) for row in rows[:3].tolist()}) > 1
        assert torch.equal(rows[:, :3], PROMPT.repeat_interleave(3, dim=0))
        assert torch.equal(rows, call(denoiser, PROMPT.repeat_interleave(3, dim=0), **how))
        listed: Any = call(denoiser, [[2, 7], [9, 8, 6]], num_return_sequences=2, **how)
        assert [len(row) for row in listed] == [6, 6, 7, 7]
        one: Any = call(denoiser, PROMPT[0], num_return_sequences=2, **how)
        assert one.shape == (2, 7)
    history = diffusion_generate(
        denoiser, PROMPT, num_return_sequences=2, output_history=True, return_dict_in_generate=True, **how
    )
    assert isinstance(history, DreamOutput) and history.history is not None
    assert all(after.shape == (4, 7) for after in history.history)


def test_a_top_k_of_0_keeps_all_tokens() -> None:
    denoiser = WrappedDenoiser(Counting(), MASK, WORDS)
    how: dict[str, Any] = {"max_new_tokens": 6, "steps": 6, "temperature": 1.0}
    for call in (anyorder.generate, diffusion_generate):
        free = call(denoiser, PROMPT, **how)
        assert torch.equal(call(denoiser, PROMPT, top_k=0, **how), free)
        assert torch.equal(call(denoiser, PROMPT, top_k=1, **how), call(denoiser, PROMPT, **how | {"temperature": 0.0}))
