"""Any order inside SGLang and vLLM, by doubles of their published interfaces: the tokens of `decode`."""

import importlib
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import engine_doubles as doubles
from anyorder.decoding.loop import decode
from anyorder.decoding.sampler import Sampler
from anyorder.errors import BadInput
from anyorder.interfaces.blocks import BlockSampler
from conftest import HashDenoiser
from engine_doubles import MASK

PROMPTS = [[3, 1, 4, 2, 5], [2, 6], [1, 1, 2]]
LENGTH = 6
OPTIONS = [
    {},
    {"sampler": "margin"},
    {"sampler": "entropy", "steps": 3},
    {"sampler": "confidence", "threshold": 0.5},
    {"sampler": "confidence@klass:0.01:0.5"},
]


@pytest.fixture
def sglang(monkeypatch: pytest.MonkeyPatch) -> Any:
    doubles.install(monkeypatch, "sglang.srt.dllm.algorithm.base", DllmAlgorithm=doubles.DllmAlgorithm)
    monkeypatch.delitem(sys.modules, "anyorder.interfaces.sglang", raising=False)
    yield importlib.import_module("anyorder.interfaces.sglang")
    sys.modules.pop("anyorder.interfaces.sglang", None)


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Any:
    doubles.install(monkeypatch, "vllm.v1.worker.gpu.sample.output", SamplerOutput=doubles.SamplerOutput)
    monkeypatch.delitem(sys.modules, "anyorder.interfaces.vllm", raising=False)
    yield importlib.import_module("anyorder.interfaces.vllm")
    sys.modules.pop("anyorder.interfaces.vllm", None)


def alone(prompt: list[int], options: dict[str, Any], blocks: int = 1) -> list[int]:
    """What `decode` makes of a prompt, block after block."""
    sampler, text = BlockSampler(MASK, options).sampler.replace(steps=options.get("steps")), list(prompt)
    for _ in range(blocks):
        text = decode(HashDenoiser(7), torch.tensor([[*text, *[MASK] * LENGTH]]), sampler).tokens[0].tolist()
    return text[len(prompt) :]


def algorithm(module: Any, options: dict[str, Any], *, fdfo: bool = False) -> Any:
    config = SimpleNamespace(
        block_size=LENGTH, mask_id=MASK, first_done_first_out_mode=fdfo, algorithm_config={"block_size": LENGTH, **options}
    )
    return module.Algorithm(config)


def batch(blocks: list[list[int]]) -> Any:
    return SimpleNamespace(batch_size=len(blocks), input_ids=torch.tensor(blocks).flatten())


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_sglang_gets_the_tokens_of_decode(sglang: Any, options: dict[str, Any]) -> None:
    runner = doubles.Runner(PROMPTS)
    forward_batch = batch([[MASK] * LENGTH] * 3)
    same = forward_batch.input_ids
    found, _ = algorithm(sglang, options).run(runner, forward_batch)
    assert found == [alone(prompt, options) for prompt in PROMPTS]
    assert forward_batch.input_ids is same, "changed in place"
    assert runner.passes <= options.get("steps", LENGTH) + 1, "one pass more, in which the final tokens are read"


def test_sglang_blocks_that_begin_with_the_prompt(sglang: Any) -> None:
    """A block holds what was left of the prompt; another one holds no mask at all."""
    runner = doubles.Runner([[3], [2], [1]])
    found, _ = algorithm(sglang, {"steps": 2}).run(runner, batch([[1, 4, *[MASK] * 4], [MASK] * 6, [1, 2, 3, 4, 5, 6]]))
    sampler = Sampler("confidence", steps=2)
    for context, block, row in zip(([3], [2]), ([1, 4, *[MASK] * 4], [MASK] * 6), found, strict=False):
        assert decode(HashDenoiser(7), torch.tensor([context + block]), sampler).tokens[0, 1:].tolist() == row
    assert found[2] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_sglang_first_done_first_out(sglang: Any, options: dict[str, Any]) -> None:
    """Rows come and go between steps, and carry their states."""
    made = algorithm(sglang, options, fdfo=True)
    blocks = {number: [MASK] * LENGTH for number in range(3)}
    states: dict[int, Any] = dict.fromkeys(range(3))
    ended: dict[int, list[int]] = {}
    for turn in range(40):
        rows = [number for number in range(3) if number not in ended and turn >= 2 * number]
        if not rows:
            break
        forward_batch = batch([blocks[number] for number in rows])
        found, carried = made.run(
            doubles.Runner([PROMPTS[number] for number in rows]), forward_batch, [states[n] for n in rows]
        )
        for row, number in enumerate(rows):
            blocks[number] = forward_batch.input_ids.view(len(rows), -1)[row].tolist()
            states[number] = carried[row]
            if found[row]:
                ended[number] = found[row]
    assert [ended[number] for number in range(3)] == [alone(prompt, options) for prompt in PROMPTS]


def test_sglang_of_another_form_and_wrong_options_are_refused(sglang: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=r"takes sampler, steps, .* and block_size, not wings"):
        algorithm(sglang, {"wings": 2})
    made, forward_batch = algorithm(sglang, {}), batch([[MASK] * LENGTH])
    states = made.init_step_state(forward_batch)
    with pytest.raises(BadInput, match="no logits of the whole block"):
        made.step(forward_batch, SimpleNamespace(full_logits=None), states)
    sys.modules.pop("anyorder.interfaces.sglang")
    doubles.install(monkeypatch, "sglang.srt.dllm.algorithm.base", DllmAlgorithm=object)
    with pytest.raises(BadInput, match="algorithms without step"):
        importlib.import_module("anyorder.interfaces.sglang")


def test_logits_alone_are_taken_too(sglang: Any) -> None:
    made, forward_batch = algorithm(sglang, {"steps": 1}), batch([[MASK] * LENGTH])
    logits = doubles.Runner([[3]]).forward(forward_batch).full_logits
    made.step(forward_batch, logits, made.init_step_state(forward_batch))
    assert forward_batch.input_ids.tolist() == logits[:, 1:].argmax(dim=1).add(1).tolist()


def vllm_runner(module: Any, options: dict[str, Any], **more: Any) -> doubles.VllmRunner:
    runner = doubles.VllmRunner(LENGTH, **more)
    runner.sampler, rejection = module.order_sampler(runner.base, runner.states, MASK, **options)
    assert rejection is None
    return runner


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_vllm_gets_the_tokens_of_decode(vllm: Any, options: dict[str, Any]) -> None:
    """Requests that come at different times, prompts that are read in pieces, several canvases each."""
    runner = vllm_runner(vllm, options)
    for slot, prompt in ((2, PROMPTS[0]), (0, PROMPTS[1])):
        runner.add(slot, prompt)
    slots = [2, 0]
    for turn in range(60):
        if turn == 3:
            runner.add(3, PROMPTS[2])
            slots = [3, 2, 0]
        runner.step([slot for slot in slots if len(runner.texts[slot]) < 2 * LENGTH])
        if all(len(runner.texts[slot]) == 2 * LENGTH for slot in runner.texts) and turn > 3:
            break
    for slot, prompt in ((2, PROMPTS[0]), (0, PROMPTS[1]), (3, PROMPTS[2])):
        assert runner.texts[slot] == alone(prompt, options, blocks=2)


def test_vllm_cuts_a_canvas_at_the_longest_text_and_forgets_aborted_requests(vllm: Any) -> None:
    runner = vllm_runner(vllm, {})
    runner.add(1, [3, 1])
    for _ in range(3):
        runner.step([1])
    runner.add(1, [2, 6])  # the slot of a request that was given up in the middle
    while len(runner.texts[1]) < 4:
        runner.step([1], room=6)
    sampler = Sampler("confidence")
    assert runner.texts[1] == decode(HashDenoiser(7), torch.tensor([[2, 6, *[MASK] * 4]]), sampler).tokens[0, 2:].tolist()
    assert [told[0] for told in runner.told] == [1, 1]
    assert runner.sampler.logprobs_mode == "raw_logprobs" and runner.sampler.penalties_state.output_bin_counts is None
    runner.sampler.apply_staged_writes()


def test_vllm_states_without_a_canvas_are_refused(vllm: Any) -> None:
    with pytest.raises(BadInput, match="no canvas"):
        vllm.order_sampler(SimpleNamespace(), SimpleNamespace(), MASK)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"sampler": "policy"}, "hidden states, attention or the model"),
        ({"sampler": "confidence+p2:0.3"}, "leave the remasker out"),
        ({"sampler": "confidence@blocks:2"}, "are the engine's"),
        ({"sampler": "info_gain"}, "hidden states, attention or the model"),
        ({"sampler": "confidence@dapd"}, "hidden states, attention or the model"),
        ({"steps": 0}, "steps is 0"),
        ({"threshold": 2}, "threshold is 2"),
        ({"temperature": -1}, "temperature is -1"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"order": "margin"}, "option 'order' is unknown: use sampler"),
    ],
)
def test_what_an_engine_cannot_do_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(BadInput, match=why):
        BlockSampler(MASK, options)


def test_blocks_draw_with_seeds_of_their_own() -> None:
    options = {"sampler": "random", "temperature": 1.0, "seed": 5}
    logits = torch.zeros(2, LENGTH, 7)

    def drawn() -> list[list[int]]:
        blocks = BlockSampler(MASK, {**options, "steps": 1})
        states = [blocks.start(torch.full((LENGTH,), MASK)) for _ in range(2)]
        return [state.tokens[0].tolist() for state in blocks.step(states, logits)]

    assert drawn() == drawn()
    assert drawn()[0] != drawn()[1]
    assert all(MASK not in row for row in drawn())


@pytest.mark.parametrize(("name", "engine"), [("sglang", "SGLang"), ("vllm", "vLLM")])
def test_without_the_engine_there_is_one_sentence(name: str, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"anyorder.interfaces.{name}", raising=False)
    with pytest.raises(BadInput, match=f"runs inside {engine}.*, which is not installed here"):
        importlib.import_module(f"anyorder.interfaces.{name}")
