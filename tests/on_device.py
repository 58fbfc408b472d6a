"""Where the tests of devices run: on the fake device, or on a GPU in `ANYORDER_TEST_DEVICE=cuda` (`make gpu-test`)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from fake_device import fake_cuda, forget_accelerate

REAL = os.environ.get("ANYORDER_TEST_DEVICE", "fake") != "fake"
DEVICE = os.environ["ANYORDER_TEST_DEVICE"] if REAL else "cuda"
DTYPE: torch.dtype = getattr(torch, os.environ.get("ANYORDER_TEST_DTYPE", "float32"))
"""Of denoisers, on both devices."""
_ALIKE, _CLOSE = 0.9, 5e-2
"""On a GPU, rounding may flip ties: the share of whole numbers that must agree, and how far others may be apart."""


@contextmanager
def gpu() -> Iterator[None]:
    """A GPU for what runs inside."""
    if REAL:
        yield
        return
    with fake_cuda():
        yield


@contextmanager
def training_on(where: str) -> Iterator[None]:
    """Trainings run on the CPU, or on the GPU."""
    with pytest.MonkeyPatch.context() as patch, nullcontext() if where == "cpu" and not REAL else gpu():
        if where == "cpu":
            patch.setenv("ACCELERATE_USE_CPU", "true")
        forget_accelerate()
        yield
    forget_accelerate()


def agree(found: Any, expected: Any) -> None:
    """Assert that results of the device, moved to the CPU, are the CPU's."""
    if isinstance(expected, Tensor):
        assert found.device.type == "cpu" and found.shape == expected.shape and found.dtype == expected.dtype
        if not REAL:
            assert torch.equal(found, expected)
        elif expected.is_floating_point():
            assert torch.isclose(found, expected, rtol=_CLOSE, atol=_CLOSE, equal_nan=True).double().mean() >= _ALIKE
        else:
            assert (found == expected).double().mean() >= _ALIKE
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            agree(found[name], expected[name])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for mine, its in zip(found, expected, strict=True):
            agree(mine, its)
    elif isinstance(expected, float):
        agree(torch.tensor(found), torch.tensor(expected))
    elif not REAL:
        assert found == expected
