"""Streamers of transformers through `generate`."""

from typing import Any

import pytest
import torch
from torch import Tensor

import anyorder
from anyorder.errors import BadInput
from anyorder.interfaces.streaming import Streaming
from tiny_llada import MASK, save_llada

transformers = pytest.importorskip("transformers")

PROMPT = torch.tensor([256, 72, 73, 74])


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = save_llada(tmp_path_factory.mktemp("model") / "llada")
    return anyorder.load_denoiser(folder, device="cpu", trust_remote_code=True, allow=[257])


def joined(parts: list[list[int]]) -> list[int]:
    return [token for part in parts for token in part]


class Recorder:
    """A streamer that keeps what it gets."""

    def __init__(self) -> None:
        self.put_tokens: list[list[int]] = []
        self.drafts: list[list[int]] = []
        self.ended = 0

    def put(self, value: Tensor) -> None:
        self.put_tokens.append(value.tolist())

    def put_draft(self, value: Tensor) -> None:
        self.drafts.append([*joined(self.put_tokens[1:]), *value.tolist()])

    def end(self) -> None:
        self.ended += 1


@pytest.mark.parametrize("how", [{}, {"block_length": 4}, {"order": "random", "steps": 5}, {"sampler": "confidence+p2@linear"}])
def test_tokens_come_once_and_from_left_to_right(denoiser: Any, how: dict[str, Any]) -> None:
    recorder, steps = Recorder(), []
    filled = anyorder.generate(denoiser, PROMPT, max_new_tokens=12, streamer=recorder, on_step=steps.append, **how)
    assert recorder.put_tokens[0] == PROMPT.tolist() and recorder.ended == 1
    assert joined(recorder.put_tokens[1:]) == filled[4:].tolist()
    assert all(len(draft) == 12 and MASK not in draft for draft in recorder.drafts)
    for draft, step in zip(recorder.drafts, steps, strict=False):
        known = ~step.after.masked[0, 4:]
        assert torch.equal(torch.tensor(draft)[known], step.after.tokens[0, 4:][known])
    if "block_length" in how:
        assert len(recorder.put_tokens) > 2, "a finished block is passed on before the end"


def test_nothing_is_final_with_a_remasker(denoiser: Any) -> None:
    recorder = Recorder()
    anyorder.generate(
        denoiser, PROMPT, max_new_tokens=8, streamer=recorder, sampler=anyorder.Sampler("confidence", remasker="p2", steps=6)
    )
    assert len(recorder.put_tokens) == 2 and len(recorder.drafts) >= 4


def test_a_stream_stops_at_the_end_of_the_text(denoiser: Any) -> None:
    plain = anyorder.generate(denoiser, PROMPT, max_new_tokens=12, order="left_to_right")
    end = int(plain[8])
    recorder = Recorder()
    anyorder.generate(denoiser, PROMPT, max_new_tokens=12, order="left_to_right", eos_token_id=end, streamer=recorder)
    first = plain[4:].tolist().index(end)
    assert joined(recorder.put_tokens[1:]) == plain[4 : 4 + first + 1].tolist()


def test_streamers_of_transformers_print(denoiser: Any, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = denoiser.tokenizer
    for kind in (transformers.TextStreamer, getattr(transformers, "TextDiffusionStreamer", transformers.TextStreamer)):
        streamer = kind(tokenizer, skip_prompt=True)
        filled = anyorder.generate(denoiser, PROMPT, max_new_tokens=6, steps=3, streamer=streamer)
        shown = capsys.readouterr().out
        assert tokenizer.decode(filled[4:]) in shown.split("\x1b[J")[-1]
    iterator = transformers.TextIteratorStreamer(tokenizer, skip_prompt=True)
    filled = anyorder.generate(denoiser, PROMPT[None], max_new_tokens=6, streamer=iterator)
    assert "".join(iterator) == tokenizer.decode(filled[0, 4:])


def test_what_cannot_be_streamed_is_refused(denoiser: Any) -> None:
    with pytest.raises(BadInput, match="a streamer is for one prompt and new tokens"):
        anyorder.generate(denoiser, [[72, 73], [74]], max_new_tokens=4, streamer=Recorder())
    with pytest.raises(BadInput, match="a streamer is for one prompt and new tokens"):
        anyorder.generate(denoiser, torch.tensor([72, MASK]), streamer=Recorder())
    with pytest.raises(BadInput, match="int is no streamer: it must have `put` and `end`"):
        Streaming(3, PROMPT)
