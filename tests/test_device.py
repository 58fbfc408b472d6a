"""Decoding on another device than the CPU, with problems on the CPU: every part, the calls of every interface."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import every_part
from anyorder.decoding.loop import decode
from anyorder.decoding.result import Decoded, History
from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.transformer import Transformer
from anyorder.diffusion import stratified
from anyorder.errors import BadInput
from anyorder.evaluation.enumeration import (
    TableDenoiser,
    TabularOrder,
    best_order,
    best_order_by_path,
    confidence_softmax,
    enumerate_paths,
)
from anyorder.evaluation.likelihood import Process, estimate_bound, exact_bound, log_likelihood
from anyorder.files import write_tensors
from anyorder.hub import save_weights
from anyorder.orders import heuristics
from anyorder.orders.heuristics import confidence, max_confidence
from anyorder.tasks import make_task
from anyorder.tasks.instances import Instances
from on_device import DEVICE, DTYPE, REAL, agree, gpu


@pytest.fixture(autouse=True)
def device() -> Iterator[None]:
    with gpu():
        yield


def denoiser(where: str = "cpu", dtype: torch.dtype = DTYPE) -> Transformer:
    """For the policies of `every_part`."""
    torch.manual_seed(0)
    made = Transformer(5, 0, 12, width=4, layers=1, heads=["everything"] * 2, pad_token_id=4, positions=True)
    return made.eval().to(where, dtype)


TOKENS = torch.tensor([[0, 0, 1, 0, 0, 0], [0, 0, 0, 3, 0, 4], [1, 2, 3, 1, 2, 1], [4, 4, 0, 0, 0, 0]])
X0 = torch.tensor([[1, 2, 1, 3, 2, 1], [2, 1, 3, 3, 1, 4], [1, 2, 3, 1, 2, 1], [4, 4, 3, 2, 1, 2]])


def decoded(where: str, sampler: Sampler, *, given: str = "cpu", dtype: torch.dtype = DTYPE) -> dict[str, Tensor]:
    """By a denoiser on a device, from problems that are given on another one."""
    found = decode(denoiser(where, dtype), TOKENS.to(given), copy.deepcopy(sampler).to(where), x0=X0)
    assert isinstance(found, Decoded) and found.tokens.device.type == torch.device(given).type
    return vars(found.to("cpu"))


PARTS: dict[str, Sampler] = {
    **{f"order {name}": Sampler(order, steps=4, noise=0.3) for name, order in every_part.orders().items()},
    **{f"count {name}": Sampler("confidence", rule, steps=4) for name, rule in every_part.count_rules().items()},
    **{f"token {name}": Sampler("confidence", token=rule, steps=4) for name, rule in every_part.token_rules().items()},
    **{f"remasker {name}": Sampler("margin", remasker=part, steps=6) for name, part in every_part.remaskers().items()},
    "blocks": Sampler(every_part.learned(), block_length=2, count="threshold:0.4"),
}


@pytest.mark.parametrize("part", PARTS)
def test_problems_of_the_cpu_are_decoded_as_on_the_cpu(part: str) -> None:
    agree(decoded(DEVICE, PARTS[part]), decoded("cpu", PARTS[part]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("part", PARTS)
def test_denoisers_in_half_precision_with_policies_in_float32(part: str, dtype: torch.dtype) -> None:
    found = decoded(DEVICE, PARTS[part], dtype=dtype)
    agree(found, decoded("cpu", PARTS[part], dtype=dtype))
    assert found["token_log_probs"].dtype == torch.float32 and not (found["tokens"] == 0).any()


@pytest.mark.parametrize("part", PARTS)
def test_autocast_around_decode(part: str) -> None:
    found = {}
    for where in (DEVICE, "cpu"):
        with torch.autocast(where, torch.bfloat16):
            found[where] = decoded(where, PARTS[part], dtype=torch.float32)
    agree(found[DEVICE], found["cpu"])


def test_problems_of_the_device_come_back_there() -> None:
    agree(decoded(DEVICE, PARTS["blocks"], given=DEVICE), decoded("cpu", PARTS["blocks"]))
    agree(decoded("cpu", PARTS["blocks"], given=DEVICE), decoded("cpu", PARTS["blocks"]))


def test_masks_solutions_and_seeds_may_be_elsewhere() -> None:
    def found(where: str, other: str) -> dict[str, Tensor]:
        mask, seeds = (TOKENS != 4).to(other), torch.arange(4).to(other)
        result = decode(denoiser(where), TOKENS.to(where), "oracle~0.1", attention_mask=mask, x0=X0.to(other), seeds=seeds)
        return vars(result.to("cpu"))

    agree(found(DEVICE, "cpu"), found("cpu", "cpu"))
    agree(found("cpu", DEVICE), found("cpu", "cpu"))


@pytest.mark.parametrize("part", ["order policy", "remasker undo", "order perturbed"])
@pytest.mark.parametrize("policy", ["cpu", DEVICE])
def test_a_policy_elsewhere_is_one_sentence(part: str, policy: str) -> None:
    sampler = copy.deepcopy(PARTS[part]).to(policy)
    model = denoiser("cpu" if policy != "cpu" else DEVICE)
    with pytest.raises(BadInput, match=r"a network of the sampler is on .*, and the denoiser on .*: move it, sampler.to\('"):
        decode(model, TOKENS, sampler)
    sampler.to(next(model.parameters()).device)
    assert decode(model, TOKENS, sampler).tokens.device.type == "cpu"


def test_a_table_of_scores_and_a_table_of_logits_move_too() -> None:
    data = torch.full((8,), 1 / 8, dtype=torch.float64)
    table = TableDenoiser.imperfect(data, 2, 0.5, 0.4, seed=0)
    tokens = torch.full((3,), 2)
    paths = enumerate_paths(table, tokens)
    torch.manual_seed(0)
    order = TabularOrder(paths, [torch.rand(state.tokens.shape) for state in paths.states])
    expected = decode(table, tokens[None], Sampler(order)).tokens
    agree(decode(table.to(DEVICE), tokens[None], Sampler(order).to(DEVICE)).tokens, expected)
    scores = [part.detach().cpu() for part in order.scores.split([len(state) for state in paths.states])]
    there = TabularOrder(enumerate_paths(table, tokens), scores)
    agree(decode(table, tokens[None], there).tokens, expected)


def numbers(where: str, given: str, looks: bool = False) -> list[Any]:
    """Everything that is enumerated or estimated, with a start on a device."""
    table = TableDenoiser.imperfect(torch.arange(1.0, 9) / 36, 2, 0.5, 0.4, seed=0).to(where)
    tokens, x0 = torch.full((3,), 2, device=given), torch.tensor([0, 1, 0], device=given)
    paths = enumerate_paths(table, tokens)
    chances = paths.distribution(confidence).cpu()
    reward = (torch.arange(8) % 3 == 0).double()
    best = best_order(paths, confidence_softmax(0.5), reward, 0.3, 0.5)
    by_path = best_order_by_path(paths, confidence_softmax(0.5), reward.cpu(), 0.3, 0.5)
    found = [chances, paths.highest(reward), best.gap, paths.distribution(by_path).detach().cpu(), paths.outputs.cpu()]

    def proposed(state: Any, prediction: Any, z: Tensor) -> Tensor:
        return confidence(state, prediction) + 0.1 * z

    for process in (
        Process(table, max_confidence), Process(table, heuristics.random), Process(table, proposed, looks_at_proposal=True),
    ):  # fmt: skip
        found += [log_likelihood(process, tokens, x0), *exact_bound(process, tokens, x0)]
    estimates = [
        estimate_bound(process, tokens, x0, 20, states=states)
        for states in ("path", "forward")
        for process in (Process(table, max_confidence), Process(table, proposed, looks_at_proposal=True, proposals=4))
    ]
    return found if REAL else [*found, *map(list, estimates)]  # whose draws a GPU makes by itself


@pytest.mark.parametrize("given", ["cpu", DEVICE])
def test_likelihoods_and_enumeration(given: str) -> None:
    agree(numbers(DEVICE, given), numbers("cpu", "cpu"))


# ---- tasks, evaluation, judges ------------------------------------------------------------------------------------------

TASKS: dict[str, dict[str, Any]] = {
    "sudoku": {"box": 2}, "sat": {"variables": 5}, "zebra": {}, "tsp": {}, "sorting": {}, "countdown": {}, "arithmetic": {},
}  # fmt: skip


@pytest.mark.parametrize("name", TASKS)
def test_tasks_check_sequences_from_anywhere(name: str) -> None:
    task = make_task(name, **TASKS[name])
    problems = task.generate(3, 0)
    tokens = problems.tokens if problems.x0 is None else problems.x0
    for method in ("check", "measure", "dead_ends"):
        expected = getattr(task, method)(problems, tokens)
        assert repr(getattr(task, method)(problems, tokens.to(DEVICE))) == repr(expected)
    assert task.format(tokens[0].to(DEVICE)) == task.format(tokens[0])
    assert task.notes(tokens[0].to(DEVICE)) == task.notes(tokens[0])


def test_a_task_checks_problems_from_anywhere() -> None:
    task = make_task("sorting")
    problems = task.generate(3, 0)
    there = Instances(problems.tokens.to(DEVICE), problems.maskable.to(DEVICE), problems.x0.to(DEVICE), problems.labels)
    agree([there.cpu().tokens, there.cpu().maskable, there.cpu().x0], [problems.tokens, problems.maskable, problems.x0])
    found = task.check(instances=there, tokens=problems.x0.to(DEVICE))
    assert repr(found) == repr(task.check(problems, problems.x0))


def test_times_are_drawn_where_their_numbers_are() -> None:
    numbers = torch.tensor([0.3, 0.9, 0.1])
    agree(stratified(numbers.to(DEVICE)).cpu(), stratified(numbers))


def test_weights_of_an_own_module_are_saved_from_the_device(tmp_path: Path) -> None:
    module = nn.Linear(3, 2)
    with mock.patch("anyorder.hub.write_tensors", wraps=write_tensors) as written:
        save_weights(copy.deepcopy(module).to(DEVICE), tmp_path)
    agree(written.call_args.args[1], dict(module.state_dict()))  # copies that the memory of the GPU need not hold
    agree(safetensors.torch.load_file(tmp_path / "model.safetensors"), dict(module.state_dict()))


def test_the_history_of_problems_of_the_cpu_is_there() -> None:
    def kept(where: str) -> list[Tensor]:
        history = History(TOKENS)
        decode(denoiser(where), TOKENS, "confidence", on_step=history)
        return history.tokens

    agree(kept(DEVICE), kept("cpu"))
