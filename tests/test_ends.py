"""The end of a text: a row stops there, what stands behind it becomes padding, and ends can be kept for later."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import anyorder
from anyorder.decoding.loop import decode
from anyorder.decoding.result import History
from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.wrapped import WrappedDenoiser
from anyorder.ends import Ends
from anyorder.errors import BadInput
from anyorder.interfaces import llada
from anyorder.interfaces.dream import DreamOutput, diffusion_generate
from anyorder.interfaces.infill import infill
from anyorder.orders import EndPenalty, confidence, left_to_right
from anyorder.state import init

WORDS, MASK, END, PAD = 12, 11, 1, 0


class Falling(nn.Module):
    """Word 5 everywhere, and the end of the text from the middle on, the surer the further right."""

    def __init__(self, slope: float = 6.0) -> None:
        super().__init__()
        self.slope, self.calls = slope, 0

    def forward(self, tokens: Tensor) -> Tensor:
        self.calls += 1
        logits = torch.zeros(*tokens.shape, WORDS)
        logits[:, :, END] = torch.linspace(0, self.slope, tokens.shape[1])
        logits[:, :, 5] = 2.5
        return logits


def falling(**how: Any) -> tuple[WrappedDenoiser, Falling]:
    net = Falling()
    return WrappedDenoiser(net, MASK, WORDS, **how), net


def test_llada_stops_at_the_end_of_the_text_and_pays_for_no_block_behind_it() -> None:
    denoiser, net = falling()
    prompt = torch.tensor([[3, 4]])
    how: dict[str, Any] = {"steps": 32, "gen_length": 32, "block_length": 8}
    whole = llada.generate(denoiser, prompt, **how)
    assert net.calls == 32
    net.calls = 0
    stopped = llada.generate(denoiser, prompt, **how, eos_token_id=END)
    assert net.calls == 16, "the end lies in the second of four blocks"
    assert torch.equal(stopped, whole), "the original goes on writing ends"
    padded = llada.generate(denoiser, prompt, **how, eos_token_id=END, pad_token_id=PAD)[0].tolist()
    first = padded.index(END)
    assert padded[:first] == whole[0, :first].tolist() and set(padded[first + 1 :]) == {PAD}


@pytest.mark.parametrize("call", ["generate", "llada", "dream", "as_generator"])
def test_every_call_stops(call: str) -> None:
    denoiser, net = falling()
    prompt = torch.tensor([[3, 4], [4, 4]])
    one_by_one: dict[str, Any] = {"order": "left_to_right", "eos_token_id": [END, 2], "pad_token_id": PAD}
    calls: dict[str, Any] = {
        "generate": lambda: anyorder.generate(denoiser, prompt, max_new_tokens=30, **one_by_one),
        "as_generator": lambda: anyorder.as_generator(denoiser).generate(prompt, max_new_tokens=30, **one_by_one),
        "llada": lambda: llada.generate(denoiser, prompt, None, 30, 30, 30, **one_by_one),
        "dream": lambda: diffusion_generate(denoiser, prompt, max_new_tokens=30, steps=90, **one_by_one),
    }
    rows = calls[call]().tolist()
    assert len(rows) == 2
    for row in rows:
        first = row.index(END)
        assert row[2:first] == [5] * (first - 2) and set(row[first + 1 :]) == {PAD}
        assert first == 13, "there the end becomes likelier than the word"
    if call != "dream":
        assert net.calls == 12


def test_texts_stop_too() -> None:
    task: Any = anyorder.make_task("text", length=20)
    end, word = task.symbols.encode("."), task.symbols.encode("a")

    class Net(nn.Module):
        calls = 0

        def forward(self, tokens: Tensor) -> Tensor:
            Net.calls += 1
            logits = torch.zeros(*tokens.shape, task.vocab_size)
            logits[:, :, word[0]] = 3
            logits[:, 4:, end[0]] = 4
            return logits

    denoiser = WrappedDenoiser(Net(), task.mask_token_id, task.vocab_size, pad_token_id=task.pad_token_id)
    assert infill(denoiser, "a_{9}", "left_to_right", task=task) == "aaa" + "." * 7
    assert Net.calls == 9
    assert infill(denoiser, "a_{9}", "left_to_right", task=task, eos_token_id=end[0]) == "aaa" + "." * 7, "the frame is given"


def test_padding_behind_an_end_makes_no_length_likelier() -> None:
    """The end at the first place is as uncertain whatever the length of the hole, so the shortest is kept."""
    task: Any = anyorder.make_task("text", length=20)
    end = task.symbols.encode(".")

    class Net(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            logits = torch.zeros(*tokens.shape, task.vocab_size)
            logits[:, :, end[0]] = 4
            return logits

    denoiser = WrappedDenoiser(Net(), task.mask_token_id, task.vocab_size, pad_token_id=task.pad_token_id)
    assert infill(denoiser, "a[MASK:1-6]", "left_to_right", task=task, eos_token_id=end[0]) == "a."


def test_an_end_counts_only_where_no_given_token_follows() -> None:
    state = init(torch.tensor([[3, MASK, MASK, 4, MASK, MASK, MASK]]), MASK)
    filled = torch.tensor([[3, END, 5, 4, 5, MASK, MASK]])
    state = state.replace(tokens=filled, masked=filled == MASK, step=state.step + 4)
    ends = Ends((END,), PAD)
    assert ends.close(state) is state, "the text goes on behind the given token"
    filled = torch.tensor([[3, 5, MASK, 4, 5, END, MASK]])
    state = state.replace(tokens=filled, masked=filled == MASK)
    assert ends.close(state) is state, "a mask is left in front of the end"
    filled = torch.tensor([[3, 5, 5, 4, 5, END, MASK]])
    closed = ends.close(state.replace(tokens=filled, masked=filled == MASK))
    assert closed.tokens.tolist() == [[3, 5, 5, 4, 5, END, PAD]]
    assert closed.finished.all() and closed.commit_step[0, -1] == 3
    with pytest.raises(BadInput, match="give at least one"):
        Ends(())


def test_padding_behind_the_new_tokens_of_shorter_rows_is_not_given() -> None:
    denoiser, _ = falling(pad_token_id=PAD)
    tokens = torch.tensor([[3, *[MASK] * 12, *[PAD] * 6], [3, 4, 5, *[MASK] * 16]])
    cut = decode(denoiser, tokens, Sampler("left_to_right"), ends=Ends((END,), 7))
    assert cut.tokens[:, -1].tolist() == [PAD, 7]
    assert (cut.nfe < torch.tensor([12, 16])).all()
    for row, length in ((0, 13), (1, 19)):
        alone = decode(denoiser, tokens[row : row + 1, :], Sampler("left_to_right"), ends=Ends((END,), 7))
        assert torch.equal(alone.tokens[0, :length], cut.tokens[row, :length])
        assert torch.equal(alone.nfe, cut.nfe[row : row + 1])


@given(st.integers(0, 10_000), st.sampled_from(["confidence", "random", "margin@blocks:3", "confidence@threshold:0.3"]))
@settings(max_examples=40, deadline=None)
def test_what_stands_in_front_of_the_end_is_what_complete_decoding_gives(seed: int, sampler: str) -> None:
    """And what is committed behind it is padding; the rest of the row costs nothing."""
    torch.manual_seed(seed)
    table = nn.Embedding(WORDS, WORDS)
    nn.init.normal_(table.weight, std=2.0)
    with torch.no_grad():
        table.weight[:, END] += 1.5
    denoiser = WrappedDenoiser(Neighbors(table), MASK, WORDS)
    tokens = torch.full((3, 12), MASK)
    tokens[:, :2] = torch.randint(2, MASK, (3, 2))
    history = History(tokens)
    chosen = Sampler.parse(sampler, steps=6, token="sample")
    every = decode(denoiser, tokens, chosen, seeds=seed)
    cut = decode(denoiser, tokens, chosen, seeds=seed, ends=Ends((END,), PAD), on_step=history)
    assert torch.equal(history.tokens[-1], cut.tokens), "callbacks see the padding"
    assert (cut.nfe <= every.nfe).all()
    for complete, row in zip(every.tokens.tolist(), cut.tokens.tolist(), strict=True):
        if END not in row[2:]:
            assert row == complete
            continue
        first = row.index(END, 2)
        assert row[: first + 1] == complete[: first + 1]
        assert set(row[first + 1 :]) <= {PAD}


class Neighbors(nn.Module):
    """Logits that depend on the neighbor on the left and on the place."""

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.table = table

    def forward(self, tokens: Tensor) -> Tensor:
        place = torch.arange(tokens.shape[1]).remainder(5)
        return self.table(tokens.roll(1, dims=1)) + self.table(place + 2) / 2


def test_with_a_remasker_a_row_is_decoded_completely_and_then_cut() -> None:
    denoiser, net = falling()
    tokens = torch.full((1, 20), MASK)
    sampler = Sampler("left_to_right", remasker="repredict", steps=20)
    history = History(tokens)
    cut = decode(denoiser, tokens, sampler, ends=Ends((END,), PAD), on_step=history)
    assert net.calls == 20
    row = cut.tokens[0].tolist()
    assert set(row[row.index(END) + 1 :]) == {PAD}
    assert torch.equal(history.tokens[-1], cut.tokens)


def test_dream_s_history_ends_in_the_result() -> None:
    denoiser, _ = falling()
    out = diffusion_generate(
        denoiser, [[3, 4]], max_new_tokens=20, steps=40, alg="maskgit_plus", eos_token_id=END, output_history=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    assert isinstance(out, DreamOutput) and out.history is not None and len(out.history) == 40
    assert torch.equal(out.history[-1][0], out.sequences[0])


# ---- later ends ---------------------------------------------------------------------------------------------------------


def test_a_penalty_puts_ends_behind_words_of_nearly_the_same_score() -> None:
    denoiser, _ = falling()
    tokens = torch.full((1, 20), MASK)

    def ends_before_words(order: Any) -> int:
        result = decode(denoiser, tokens, Sampler(order))
        is_end = result.tokens[0] == END
        return int((result.commit_step[0][is_end][:, None] < result.commit_step[0][~is_end]).sum())

    counts = [ends_before_words(EndPenalty(confidence, (END,), penalty)) for penalty in (0.0, 0.3, math.inf)]
    assert counts[0] == ends_before_words("confidence") > counts[1] > counts[2] == 0
    result = decode(denoiser, tokens, Sampler(EndPenalty(confidence, (END,)), steps=5))
    assert (result.commit_step[0].bincount() == 4).all(), "the schedule is kept"
    first = result.commit_step[0][result.tokens[0] == END]
    assert first.tolist() == sorted(first.tolist()), "ends from left to right"
    for penalty in (-1.0, math.nan):
        with pytest.raises(ValueError, match="must be a number of 0 or more"):
            EndPenalty(confidence, (END,), penalty)


def test_a_penalized_order_is_saved_with_its_sampler(tmp_path: Path) -> None:
    sampler = Sampler(EndPenalty(left_to_right, (END, 2), math.inf), count="threshold:0.5", steps=4)
    sampler.save_pretrained(tmp_path)
    assert Sampler.from_pretrained(tmp_path) == sampler
    assert "Infinity" not in (tmp_path / "sampler.json").read_text()


def test_in_generate_a_penalty_also_holds_for_the_threshold() -> None:
    denoiser, _ = falling()
    prompt = torch.tensor([[3]])
    how: dict[str, Any] = {"max_new_tokens": 20, "eos_token_id": END, "pad_token_id": PAD, "threshold": 0.6}
    seen: list[Tensor] = []
    anyorder.generate(denoiser, prompt, **how, eos_penalty=math.inf, on_step=lambda out: seen.append(out.after.tokens[0]))
    words_left = [bool((row == MASK)[:9].any()) for row in seen]
    ended = [bool((row == END).any()) for row in seen]
    assert not any(left and end for left, end in zip(words_left, ended, strict=True))
    seen.clear()
    anyorder.generate(denoiser, prompt, **how, on_step=lambda out: seen.append(out.after.tokens[0]))
    assert (seen[0] == END).any(), "without it the threshold takes ends at once"
    sampled = anyorder.generate(denoiser, prompt, max_new_tokens=20, sampler="confidence", eos_token_id=END, eos_penalty=9.0)
    assert sampled.shape == (1, 21)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"eos_token_id": WORDS}, "eos_token_id is 12; it must be one of the model's 12 tokens"),
        ({"eos_token_id": MASK}, "and not the mask"),
        ({"eos_token_id": -1}, "eos_token_id is -1; it must be a whole number, 0 or more"),
        ({"eos_token_id": []}, "give at least one"),
        ({"eos_token_id": END, "pad_token_id": 50}, "pad_token_id is 50"),
        ({"pad_token_id": 0}, "give eos_token_id too"),
        ({"eos_penalty": 1.0}, "give eos_token_id"),
        ({"eos_penalty": math.nan, "eos_token_id": END}, "eos_penalty is nan"),
    ],
)
def test_ends_that_are_none_are_refused(how: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        anyorder.generate(falling()[0], torch.tensor([[3]]), max_new_tokens=4, **how)


def test_a_task_whose_sequences_end_says_so() -> None:
    assert anyorder.make_task("sudoku").stops_at is None
    assert anyorder.make_task("protein", alphabet="esm", length=9).stops_at is None
    free: Any = anyorder.make_task("protein", alphabet="esm", length=9, free_length=True)
    assert free.stops_at == Ends(tuple(free.symbols.end))
