"""The scheduler with an order, step for step beside diffusers' own. Tried with diffusers 0.42.0 and 0.42.1."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from anyorder.decoding.loop import decode
from anyorder.decoding.result import History
from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.errors import BadInput
from anyorder.orders.learned import LearnedOrder
from anyorder.prediction import Prediction
from anyorder.registry import POLICIES
from anyorder.state import DecodeState

diffusers = pytest.importorskip("diffusers")

from anyorder.interfaces.diffusers import OrderScheduler  # noqa: E402

WORDS, MASK = 24, 23
ROOT = Path(__file__).parent.parent


class TinyLLaDA2(nn.Module):
    """A random bidirectional model with the interface that LLaDA2Pipeline expects; it never proposes the mask."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.config = SimpleNamespace(vocab_size=WORDS, hidden_size=16)
        self.embed = nn.Embedding(WORDS, 16)
        self.places = nn.Embedding(64, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.lm_head = nn.Linear(16, WORDS)
        nn.init.constant_(self.lm_head.bias[MASK], -30.0)

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None) -> Any:
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        x = self.embed(input_ids) + self.places(position_ids)
        padding = None if attention_mask is None else ~attention_mask.bool()
        x = 3 * self.attention(x, x, x, key_padding_mask=padding, need_weights=False)[0] + x
        return SimpleNamespace(logits=2 * self.lm_head(x))


MODEL = TinyLLaDA2().eval()
PROMPTS = torch.randint(0, MASK, (3, 5), generator=torch.Generator().manual_seed(1))


def block(rows: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Logits (B, L, V) and a block (B, L) with masks in it."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, length, WORDS, generator=generator)
    logits[..., MASK] = -torch.inf
    sample = torch.randint(0, MASK, (rows, length), generator=generator)
    return logits, sample.masked_fill(torch.rand(rows, length, generator=generator) < 0.6, MASK)


@given(
    st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 12), st.sampled_from([0.0, 0.3, 0.6, 2.0]),
    st.sampled_from([None, 0.4]), st.data(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_confidence_takes_every_step_of_the_original(
    seed: int, length: int, steps: int, threshold: float, editing: float | None, data: st.DataObject
) -> None:
    logits, sample = block(3, length, seed)
    ours, original = OrderScheduler(order="confidence"), diffusers.BlockRefinementScheduler()
    how: dict[str, Any] = {"mask_token_id": MASK, "threshold": threshold, "editing_threshold": editing}
    how["prompt_mask"] = torch.arange(length) < data.draw(st.integers(0, length))
    for scheduler in (ours, original):
        scheduler.set_timesteps(steps, block_length=length)
    step = data.draw(st.integers(0, steps - 1))
    a, b = ours.step(logits, step, sample, **how), original.step(logits, step, sample, **how)
    assert type(a) is type(b)
    for name in b:
        assert torch.equal(a[name], b[name]), name
    as_tuple = ours.step(logits, torch.tensor(step), sample, return_dict=False, **how)
    assert all(torch.equal(x, y) for x, y in zip(as_tuple, b.to_tuple(), strict=True))


@given(st.integers(0, 10_000), st.sampled_from(["random", "margin", "left_to_right"]), st.sampled_from([0.2, 0.5, 2.0]))
@settings(max_examples=30, deadline=None)
def test_any_order_commits_as_many_and_the_sure_ones_first(seed: int, order: str, threshold: float) -> None:
    logits, sample = block(4, 8, seed)
    ours, original = OrderScheduler(order=order), diffusers.BlockRefinementScheduler()
    for scheduler in (ours, original):
        scheduler.set_timesteps(3, block_length=8)
    how: dict[str, Any] = {"mask_token_id": MASK, "threshold": threshold, "temperature": 0.8}
    a = ours.step(logits, 0, sample, generator=torch.Generator().manual_seed(1), **how)
    b = original.step(logits, 0, sample, generator=torch.Generator().manual_seed(1), **how)
    assert torch.equal(a.sampled_tokens, b.sampled_tokens)
    assert torch.equal(a.transfer_index.sum(dim=1), b.transfer_index.sum(dim=1))
    sure = (sample == MASK) & (a.sampled_probs > threshold)
    assert not (sure & ~a.transfer_index).any()
    assert not (a.transfer_index & (sample != MASK)).any()
    assert torch.equal(a.prev_sample, torch.where(a.transfer_index, a.sampled_tokens, sample))
    if order == "left_to_right" and threshold == 2.0:
        assert torch.equal(a.transfer_index, (sample == MASK) & ((sample == MASK).cumsum(dim=1) <= 3))


def run(scheduler: Any, model: Any = MODEL, **how: Any) -> Tensor:
    pipeline = diffusers.LLaDA2Pipeline(model=model, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    how = {"gen_length": 14, "block_length": 4, "num_inference_steps": 3, "threshold": 2.0, "editing_threshold": None, **how}
    out: Tensor = pipeline(
        input_ids=PROMPTS, mask_token_id=MASK, use_chat_template=False, eos_early_stop=False, output_type="seq", **how
    ).sequences
    return out


@pytest.mark.parametrize("how", [{}, {"threshold": 0.5}, {"threshold": 0.5, "editing_threshold": 0.6}, {"temperature": 0.7}])
def test_the_pipeline_gives_the_same_text(how: dict[str, Any]) -> None:
    def text(scheduler: Any) -> Tensor:
        return run(scheduler, generator=torch.Generator().manual_seed(4), **how)

    expected = text(diffusers.BlockRefinementScheduler())
    assert (expected != MASK).all()
    assert torch.equal(text(OrderScheduler()), expected)
    if "temperature" not in how:
        assert torch.equal(text(OrderScheduler(order="confidence")), expected)
        assert not torch.equal(text(OrderScheduler(order="left_to_right")), expected)


def fitted(architecture: str, **how: Any) -> LearnedOrder:
    """A policy whose correction is large and depends on all that it sees."""
    torch.manual_seed(1)
    policy = POLICIES[architecture](hidden_size=16, vocab_size=WORDS, width=16, **how)
    nn.init.normal_(policy.out.weight, std=3.0)
    return LearnedOrder(policy.eval())


@pytest.mark.parametrize("architecture", ["mlp", "score_transformer", "score_hidden_transformer"])
def test_in_the_pipeline_a_learned_order_sees_what_it_sees_in_decode(architecture: str) -> None:
    """One block after a prompt of whole blocks is a decoding of its own: both must commit the same."""
    order = fitted(architecture)
    denoiser = HuggingFaceDenoiser(MODEL, MASK)
    scheduler = OrderScheduler(order=order)
    prompts = torch.randint(0, MASK, (3, 8), generator=torch.Generator().manual_seed(2))
    pipeline = diffusers.LLaDA2Pipeline(model=scheduler.watch(denoiser), scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    text = pipeline(
        input_ids=prompts, gen_length=8, block_length=8, num_inference_steps=4, threshold=2.0, editing_threshold=None,
        mask_token_id=MASK, eos_early_stop=False, output_type="seq",
    ).sequences  # fmt: skip
    tokens = nn.functional.pad(prompts, (0, 8), value=MASK)
    assert torch.equal(text, decode(denoiser, tokens, Sampler(order, steps=4)).tokens[:, 8:])


def test_in_the_pipeline_an_order_sees_all_that_the_denoiser_saw() -> None:
    seen: list[tuple[DecodeState, Prediction]] = []

    def watcher(state: DecodeState, prediction: Prediction) -> Tensor:
        seen.append((state, prediction))
        return prediction.scatter(prediction.log_odds)

    scheduler, denoiser = OrderScheduler(order=watcher), HuggingFaceDenoiser(MODEL, MASK)
    run(scheduler, scheduler.watch(denoiser), gen_length=7)  # after a prompt of 5: the rest of a block of 4, and another
    first, last = seen[0][0], seen[-1][0]
    assert [state.tokens.shape[1] for state, _ in seen] == [8] * 3 + [12] * 3
    assert torch.equal(first.tokens, torch.cat([PROMPTS, torch.full((3, 3), MASK)], dim=1))
    assert first.masked[0].tolist() == first.generated[0].tolist() == [False] * 5 + [True] * 3
    assert last.generated[0].tolist() == [False] * 8 + [True] * 4, "of the block, what was committed too"
    assert (last.masked.sum(dim=1) == 1).all() and not last.masked[:, :8].any()
    assert (last.step == 2).all() and (last.steps == 3).all()
    with torch.no_grad():
        for state, prediction in seen:
            logits, hidden = denoiser(state.tokens, state.attention_mask, state.masked)
            torch.testing.assert_close(prediction.hidden, hidden)
            torch.testing.assert_close(prediction.logits, logits)


def test_hidden_states_may_be_given_to_a_step() -> None:
    order = fitted("mlp")
    scheduler = OrderScheduler(order=order)
    scheduler.set_timesteps(2, block_length=6)
    denoiser = HuggingFaceDenoiser(MODEL, MASK)
    window = torch.cat([PROMPTS, torch.full((3, 6), MASK)], dim=1)
    with torch.no_grad():
        logits, hidden = denoiser(window)
    sample = window[:, -6:]
    whole = scheduler.step(logits[:, -6:], 0, sample, mask_token_id=MASK, threshold=2.0, input_ids=window, hidden_states=hidden)
    alone = scheduler.step(logits[:, -6:], 0, sample, mask_token_id=MASK, threshold=2.0, hidden_states=hidden[:, -6:])
    assert torch.equal(whole.transfer_index, alone.transfer_index), "this policy looks at each position by itself"
    history = History(window)
    decode(denoiser, window, Sampler(order, steps=2), on_step=history)
    assert torch.equal(whole.prev_sample, history.tokens[1][:, -6:])
    with pytest.raises(BadInput, match="If they cover more than the block, give input_ids too"):
        scheduler.step(logits[:, -6:], 0, sample, mask_token_id=MASK, hidden_states=hidden)
    with pytest.raises(BadInput, match="does not end in this block"):
        scheduler.step(logits[:, -6:], 0, sample, mask_token_id=MASK, input_ids=window[:, :-1], hidden_states=hidden[:, :-1])


def test_orders_that_a_scheduler_cannot_serve_are_refused() -> None:
    logits, sample = block(2, 6, 0)
    scheduler = OrderScheduler()
    scheduler.set_timesteps(2, block_length=6)
    with pytest.raises(BadInput, match=r"scheduler\.watch\(denoiser\)"):
        scheduler.step(logits, 0, sample, mask_token_id=MASK, order=fitted("mlp"))
    blind = scheduler.step(logits, 0, sample, mask_token_id=MASK, order=fitted("score_transformer"))
    assert blind.transfer_index.any(), "this one needs no hidden states"
    with pytest.raises(BadInput, match="give mask_token_id, or no order"):
        scheduler.step(logits, 0, sample, order="margin")
    with pytest.raises(BadInput, match="random, left_to_right, right_to_left, confidence"):
        OrderScheduler(order="best")
    with pytest.raises(BadInput, match=r"use anyorder\.decode"):
        OrderScheduler(order=fitted("lookahead", first_prediction=True))


def test_the_versions_tried_are_the_versions_allowed() -> None:
    bounds = next(line for line in (ROOT / "pyproject.toml").read_text().splitlines() if line.startswith("diffusers = "))
    assert '"diffusers>=0.42,<0.43"' in bounds
    assert diffusers.__version__.startswith("0.42."), "try the scheduler with this version, then widen the bounds"


def test_a_scheduler_of_another_form_is_refused_on_import(monkeypatch: pytest.MonkeyPatch) -> None:
    import anyorder.interfaces.diffusers as module

    def step(self: Any, model_output: Tensor, timestep: float, sample: Tensor, *, generator: Any = None) -> None: ...

    monkeypatch.setattr(diffusers.BlockRefinementScheduler, "step", step)
    spec = importlib.util.spec_from_file_location("imported_again", module.__file__)
    assert spec is not None and spec.loader is not None
    with pytest.raises(BadInput, match=r"pip install 'anyorder\[diffusers\]'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 12), st.sampled_from(["random", "margin"]), st.data())
@settings(max_examples=30, deadline=None)
def test_a_time_in_0_to_1_means_the_step_at_that_time(
    seed: int, length: int, steps: int, order: str, data: st.DataObject
) -> None:
    """Timesteps as diffusers is to count them (pull request 14741): from 1 down at even distances."""
    logits, sample = block(2, length, seed)
    scheduler = OrderScheduler(order=order)
    scheduler.set_timesteps(steps, block_length=length)
    step = data.draw(st.integers(0, steps - 1))
    outs = [
        scheduler.step(logits, when, sample, mask_token_id=MASK, generator=torch.Generator().manual_seed(1))
        for when in (step, torch.tensor(step), 1 - step / steps, torch.linspace(1, 0, steps + 1)[step])
    ]
    assert all(torch.equal(out.prev_sample, outs[0].prev_sample) for out in outs)


@pytest.mark.parametrize("time", [0.0, 1.5, -0.5, float("nan")])
def test_other_times_are_refused(time: float) -> None:
    logits, sample = block(2, 6, 0)
    with pytest.raises(BadInput, match=r"the number of the step, from 0, or a time in \(0, 1\]"):
        OrderScheduler(order="margin").step(logits, time, sample, mask_token_id=MASK)


@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 12), st.sampled_from(["random", "margin", "left_to_right"]))
@settings(max_examples=30, deadline=None)
def test_no_step_commits_more_than_the_schedule_says(seed: int, length: int, steps: int, order: str) -> None:
    logits, sample = block(3, length, seed)
    scheduler = OrderScheduler(order=order)
    scheduler.set_timesteps(steps, block_length=length)
    schedule = scheduler.get_num_transfer_tokens(length, steps).tolist()
    for step, most in enumerate(schedule):
        out = scheduler.step(logits, step, sample, mask_token_id=MASK, threshold=2.0)
        left = (sample == MASK).sum(dim=1)
        assert torch.equal(out.transfer_index.sum(dim=1), left.clamp(max=most))
        sample = out.prev_sample
    assert (sample != MASK).all()


def test_where_is_answered_by_the_shared_step(monkeypatch: pytest.MonkeyPatch) -> None:
    import anyorder.interfaces.diffusers as module

    logits, sample = block(2, 6, 0)
    scheduler = OrderScheduler(order="margin")
    scheduler.set_timesteps(3, block_length=6)
    seen: list[Any] = []
    shared = module.step
    monkeypatch.setattr(module, "step", lambda *given: seen.append(shared(*given)) or seen[-1])
    out = scheduler.step(logits, 0, sample, mask_token_id=MASK, threshold=2.0)
    assert torch.equal(out.prev_sample, seen[0][0].tokens)


def test_without_masks_and_order_it_is_the_original() -> None:
    logits, sample = block(2, 6, 0)
    outs = []
    for scheduler in (OrderScheduler(), diffusers.BlockRefinementScheduler()):
        scheduler.set_timesteps(2, block_length=6)
        outs.append(scheduler.step(logits, 0, sample, generator=torch.Generator().manual_seed(0)).prev_sample)
    assert torch.equal(*outs)


def test_configured_and_saved_as_the_original(tmp_path: Path) -> None:
    def last_first(state: DecodeState, prediction: Prediction) -> Tensor:
        return state.index.float().masked_fill(~prediction.predicted, -torch.inf)

    original = diffusers.BlockRefinementScheduler(block_length=7, threshold=0.4)
    ours = OrderScheduler.from_config(original.config, order=last_first)
    assert ours.config.block_length == 7 and ours.config.threshold == 0.4
    assert ours.unmasking_order is last_first
    ours.save_pretrained(tmp_path)
    again = OrderScheduler.from_pretrained(tmp_path, order="margin")
    assert again.config.block_length == 7
    assert again.unmasking_order is not None and again.unmasking_order is not last_first
    assert diffusers.BlockRefinementScheduler.from_pretrained(tmp_path).config.threshold == 0.4


def test_anyorder_does_not_import_diffusers() -> None:
    code = (
        "import sys, anyorder, anyorder.interfaces.llada, anyorder.interfaces.dream, anyorder.interfaces.transformers; "
        "[getattr(anyorder, name) for name in dir(anyorder)]; sys.exit('diffusers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
