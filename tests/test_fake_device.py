"""The fake device itself: it refuses what CUDA refuses, and otherwise gives the CPU's numbers."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fake_device import GENERATOR, INDEX, TO_NUMPY, TWO_DEVICES, fake_cuda
from on_device import REAL


@pytest.fixture(autouse=True)
def device() -> Iterator[None]:
    with fake_cuda():
        yield


def here() -> Tensor:
    """On the CPU."""
    return torch.tensor([[3.0, 1.0, 2.0], [0.5, 4.0, 1.0]])


def there() -> Tensor:
    """The same on the device."""
    return here().cuda()


ROWS = torch.tensor([1, 0])
REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "adding": (lambda: there() + here(), RuntimeError, TWO_DEVICES),
    "adding the other way round": (lambda: here() + there(), RuntimeError, TWO_DEVICES),
    "adding a number of the device": (lambda: here() + there().sum(), RuntimeError, TWO_DEVICES),
    "multiplying matrices": (lambda: there() @ here().T, RuntimeError, TWO_DEVICES),
    "a layer": (lambda: nn.Linear(3, 2)(there()), RuntimeError, TWO_DEVICES),
    "an input of a layer": (lambda: nn.Linear(3, 2).cuda()(here()), RuntimeError, TWO_DEVICES),
    "an embedding": (lambda: nn.Embedding(2, 2).cuda()(ROWS), RuntimeError, TWO_DEVICES),
    "where": (lambda: torch.where(here() > 1, there(), 0.0), RuntimeError, TWO_DEVICES),
    "masked_fill": (lambda: there().masked_fill(here() > 1, 0.0), RuntimeError, TWO_DEVICES),
    "masked_scatter": (lambda: there().masked_scatter(there() > 1, here()), RuntimeError, TWO_DEVICES),
    "concatenation": (lambda: torch.cat([there(), here()]), RuntimeError, TWO_DEVICES),
    "stacking numbers": (lambda: torch.stack([there().sum(), here().sum()]), RuntimeError, TWO_DEVICES),
    "gather": (lambda: there().gather(1, ROWS[:, None]), RuntimeError, TWO_DEVICES),
    "index_select": (lambda: there().index_select(0, ROWS), RuntimeError, TWO_DEVICES),
    "comparison": (lambda: torch.equal(there(), here()), RuntimeError, TWO_DEVICES),
    "a loss": (lambda: F.cross_entropy(there(), ROWS), RuntimeError, TWO_DEVICES),
    "isin": (lambda: torch.isin(there(), here()), RuntimeError, TWO_DEVICES),
    "indexing a CPU tensor": (lambda: here()[ROWS.cuda()], RuntimeError, INDEX),
    "indexing a CPU tensor by a mask": (lambda: here()[there() > 1], RuntimeError, INDEX),
    "writing to indexes of a CPU tensor": (lambda: here().__setitem__(there() > 1, 0.0), RuntimeError, INDEX),
    "putting values of the CPU": (lambda: there().__setitem__(there() > 1, torch.ones(4)), RuntimeError, TWO_DEVICES),
    "adding in place": (lambda: there().add_(here()), RuntimeError, TWO_DEVICES),
    "adding in place on the CPU": (lambda: here().add_(there()), RuntimeError, TWO_DEVICES),
    "a number in place on the CPU": (lambda: torch.tensor(1.0).mul_(there().sum()), RuntimeError, TWO_DEVICES),
    "numpy()": (lambda: there().numpy(), TypeError, TO_NUMPY),
    "numpy.asarray": (lambda: np.asarray(there()), TypeError, TO_NUMPY),
    "a list to numpy": (lambda: np.array([there(), there()]), TypeError, TO_NUMPY),
    "a generator of the CPU": (
        lambda: torch.rand(2, generator=torch.Generator(), device="cuda"), RuntimeError, GENERATOR.format("cuda", "cpu"),
    ),
    "a generator of the device": (
        lambda: torch.rand(2, generator=torch.Generator("cuda")), RuntimeError, GENERATOR.format("cpu", "cuda"),
    ),
    "drawing on the device by a generator of the CPU": (
        lambda: torch.multinomial(there(), 1, generator=torch.Generator()), RuntimeError, GENERATOR.format("cuda", "cpu"),
    ),
    "a second device": (lambda: here().to("cuda:1"), RuntimeError, "invalid device ordinal"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cuda_refuses(case: str) -> None:
    call, error, message = REFUSED[case]
    with pytest.raises(error) as raised:
        call()
    assert message in str(raised.value)


SAME: dict[str, Callable[[Tensor], Any]] = {
    "arithmetic": lambda x: (x * 2 + 1).exp().sum(dim=1),
    "a number of the CPU": lambda x: x * torch.tensor(2.0),
    "a number of the CPU in where": lambda x: torch.where(x > 1, x, torch.tensor(0.0)),
    "a layer": lambda x: nn.Linear(3, 2, bias=False).requires_grad_(False).to(x.device).weight.mul_(0).add_(1) @ x.T,
    "attention": lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None]),
    "sorting": lambda x: x.sort(dim=1, descending=True, stable=True),
    "the largest": lambda x: x.topk(2, dim=1),
    "slices": lambda x: x[:, 1:],
    "indexing by the CPU": lambda x: x[ROWS],
    "indexing by its own mask": lambda x: x[x > 1],
    "putting one number": lambda x: _changed(x, lambda y: y.__setitem__(y > 1, torch.tensor(7.0))),
    "putting a slice of the CPU": lambda x: _changed(x, lambda y: y.__setitem__(slice(0, 1), torch.ones(1, 3))),
    "copying from the CPU": lambda x: x.clone().copy_(torch.ones(2, 3)),
    "in place through a view": lambda x: _changed(x, lambda y: y[0].fill_(9.0)),
    "like": lambda x: (torch.zeros_like(x), torch.full_like(x, 2.0), x.new_zeros(2), x.new_ones(2), x.new_full((1,), 3.0)),
    "new_tensor": lambda x: x.new_tensor([1.0, 2.0]),
    "made beside it": lambda x: (torch.arange(3, device=x.device), torch.tensor([1.0], device=x.device)),
    "one_hot": lambda x: F.one_hot(x.long(), 6),
    "softmax": lambda x: torch.log_softmax(x, dim=-1),
    "scatter": lambda x: torch.zeros_like(x).scatter(1, x.argsort(dim=1), x),
    "searchsorted": lambda x: torch.searchsorted(x.sort(dim=1).values, x),
    "repeat_interleave": lambda x: x.repeat_interleave(2, dim=0),
    "stacked numbers": lambda x: torch.stack([x.sum(), x.mean()]),
    "nonzero": lambda x: (x > 1).nonzero(),
    "bincount": lambda x: torch.bincount(x.long().flatten()),
    "its own isin": lambda x: torch.isin(x, x[0, :1]),
    "another dtype": lambda x: (x.to(torch.bfloat16), x.double(), x.half()),
    "drawing": lambda x: torch.multinomial(x, 1, generator=torch.Generator(x.device).manual_seed(0)),
    "random numbers": lambda x: torch.rand(3, generator=torch.Generator(x.device).manual_seed(0), device=x.device),
}


def _changed(x: Tensor, change: Callable[[Tensor], Any]) -> Tensor:
    copied = x.clone()
    change(copied)
    return copied


@pytest.mark.parametrize("case", SAME)
def test_the_numbers_are_those_of_the_cpu_and_lie_on_the_device(case: str) -> None:
    expected, found = SAME[case](here()), SAME[case](there())
    if isinstance(expected, Tensor):
        expected, found = (expected,), (found,)
    for mine, its in zip(expected, found, strict=True):
        assert its.device == torch.device("cuda:0") and its.is_cuda and not its.is_cpu
        assert its.dtype == mine.dtype and torch.equal(its.cpu(), mine)


def test_what_leaves_the_device() -> None:
    x = there()
    assert float(x[0, 0]) == 3.0 and int(x[0, 1]) == 1 and bool(x[0, 2] > 1) and x.tolist() == here().tolist()
    assert torch.tensor([x[0, 0], x[0, 1]]).tolist() == [3.0, 1.0]
    assert np.array_equal(x.cpu().numpy(), here().numpy())
    assert type(torch.empty(2, 3).copy_(x)) is Tensor
    assert x.to("cpu").device.type == "cpu" and x.to(here()).device.type == "cpu" and here().to(x).device.type == "cuda"
    assert torch.empty(2, device="meta").device.type == "meta" and x.to("meta").device.type == "meta"


def trained(where: str) -> tuple[float, dict[str, Tensor]]:
    """A small network after three steps of training, moved after its optimizer was made."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 1))
    network.register_buffer("calls", torch.zeros(1))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    network.to(where)
    for _ in range(3):
        optimizer.zero_grad()
        loss = network(here().to(where)).cpu().square().mean()  # a loss on the CPU sends its gradient back
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return float(loss.detach()), copy.deepcopy(network).cpu().state_dict()


def test_training_on_the_device() -> None:
    (loss, weights), (expected, known) = trained("cuda"), trained("cpu")
    assert loss == expected
    assert all(type(weights[name]) is Tensor and torch.equal(weights[name], known[name]) for name in known)


def test_autocast_on_the_device() -> None:
    layer = nn.Linear(3, 2).cuda()
    with torch.autocast("cuda", torch.bfloat16):
        assert layer(there()).dtype == torch.bfloat16 and torch.is_autocast_enabled("cuda")
        with torch.autocast("cuda", enabled=False):
            assert layer(there()).dtype == torch.float32
    assert not torch.is_autocast_enabled("cuda")
    assert layer(there()).dtype == torch.float32


def test_a_copied_parameter_stays_on_the_device() -> None:
    layer = copy.deepcopy(nn.Linear(3, 2).cuda())
    assert layer.weight.is_cuda and isinstance(layer.weight, nn.Parameter) and layer(there()).is_cuda


class TestAfterwards:
    @pytest.fixture(autouse=True)
    def device(self) -> None:  # none here
        pass

    def test_everything_is_as_it_was(self) -> None:
        names = ("is_available", "device_count", "manual_seed_all")
        before = [torch.Generator, torch.autocast, *(getattr(torch.cuda, name) for name in names)]
        swap = torch.__future__.get_swap_module_params_on_conversion()
        with pytest.raises(ValueError, match="True"), fake_cuda():
            raise ValueError(f"{torch.cuda.is_available()}")
        assert [torch.Generator, torch.autocast, *(getattr(torch.cuda, name) for name in names)] == before
        assert torch.__future__.get_swap_module_params_on_conversion() == swap
        assert torch.cuda.is_available() == REAL and torch.zeros(1).device.type == "cpu"
        if not REAL:
            with pytest.raises((AssertionError, RuntimeError)):
                torch.zeros(1, device="cuda")
