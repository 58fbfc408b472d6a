"""Arguments of a wrong kind are one `BadInput`, never an error from deep inside; whatever is public is tried."""

import importlib
import inspect
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import anyorder
from anyorder.errors import AnyorderError, BadInput
from anyorder.signatures import check_argument, checked

WRONG: list[Any] = [None, 5, -1, "nonsense", [], {}, Path(os.sep)]
PYTHON = r"missing \d+ required|positional argument|abstract class|Protocols cannot be instantiated|takes no arguments"
"""What Python itself says of a call that cannot be made."""


def public_calls() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every function and class of docs/api.md and of the tasks, and the constructors that are class methods."""
    text = (Path(__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
    names = re.findall(r"^- `(anyorder[\w.]+)`", text, re.MULTILINE) + [f"anyorder.tasks.{n}" for n in anyorder.tasks.__all__]
    for name in dict.fromkeys(names):
        module, _, attribute = name.rpartition(".")
        found = getattr(importlib.import_module(module), attribute)
        if callable(found):
            yield name, found
        for method in ("parse", "from_pretrained", "load", "join"):
            if inspect.isclass(found) and inspect.ismethod(getattr(found, method, None)):
                yield f"{name}.{method}", getattr(found, method)


def said_of(call: Callable[..., Any], value: Any) -> str:
    """What is wrong with the error of a call; "" if it is one of this library's, of Python's about the call, or none at all."""
    try:
        call(value)
    except AnyorderError as error:
        return str(error) if re.search("object has no attribute|not supported between|not subscriptable", str(error)) else ""
    except TypeError as error:
        return "" if re.search(PYTHON, str(error)) else f"TypeError: {error}"
    return ""


@pytest.mark.parametrize(("name", "call"), list(public_calls()))
def test_the_first_argument_of_every_public_call(name: str, call: Callable[..., Any]) -> None:
    assert not [found for value in WRONG if (found := said_of(call, value))], name


@pytest.fixture(scope="module")
def setup() -> SimpleNamespace:
    """What right calls need."""
    denoiser = anyorder.load_denoiser("sudoku4", device="cpu")
    task = anyorder.task_for(denoiser)
    problems, sampler = task.generate(1, seed=0), anyorder.Sampler("confidence", steps=2)
    state = anyorder.init(problems.tokens, task.mask_token_id)
    return SimpleNamespace(
        denoiser=denoiser, task=task, problems=problems, sampler=sampler, order=anyorder.load_order("sudoku4"), state=state,
        module=torch.nn.Embedding(5, 5), prediction=anyorder.predict(denoiser, state, sampler),
        decoded=anyorder.decode(denoiser, problems.tokens, sampler), compared=(denoiser, task, problems, ["confidence"]),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.sampler.save_pretrained(5), "folder is 5; it must be a text or a path"),
        (lambda s: s.order.save_pretrained(None), "folder is None; it must be a text or a path"),
        (lambda s: s.order.policy.save_pretrained(5), "folder is 5"),
        (lambda s: s.denoiser.save_pretrained(5), "save_directory is 5"),
        (lambda s: anyorder.WrappedDenoiser(s.module, 4, 5).save_pretrained([]), "folder is an object of the class list"),
        (lambda s: s.decoded.save(None), "path is None"),
        (lambda s: s.sampler.push_to_hub(None), "repo_id is None; it must be a text"),
        (lambda s: anyorder.load_order("sudoku4", 5), "denoiser is 5; it must be of the class Module or None"),
        (lambda s: anyorder.task_for(3), "a int is no denoiser"),
        (lambda s: anyorder.task_for(s.denoiser, 3), "the name of a task is 3; it must be a text"),
        (lambda s: anyorder.load_denoiser("sudoku4", device=[]), "device '\\[\\]' cannot be used"),
        (lambda s: anyorder.load_denoiser(os.sep), "/ holds no denoiser \\(no config.json\\): give the folder that holds"),
        (lambda s: anyorder.load_denoiser(__file__), "it is a file"),
        (lambda s: anyorder.WrappedDenoiser(s.module, 4, None), "vocab_size is None; it must be a whole number"),
        (lambda s: anyorder.HuggingFaceDenoiser(s.module, 4), "Embedding has no configuration"),
        (lambda s: anyorder.decode(s.denoiser, s.problems.tokens, s.sampler, ends=5), "ends is 5"),
        (lambda s: anyorder.generate(s.denoiser, s.problems.tokens, "x"), "attention_mask must be a tensor, or a list"),
        (lambda s: anyorder.generate("3", s.problems.tokens), "str is neither a model with a configuration nor a denoiser"),
        (lambda s: anyorder.infill(s.denoiser, 5), "texts are 5"),
        (lambda s: anyorder.infill(s.denoiser, "a_", seed=None), "seed is None; it must be a whole number"),
        (lambda s: anyorder.collate([[1]], "x"), "pad_token_id is 'x'"),
        (lambda s: anyorder.init(s.problems.tokens, 0, seeds=None), "seeds is None; it must be of the class Tensor or a whole"),
        (lambda s: anyorder.predict(None, s.state, s.sampler), "a NoneType is no denoiser"),
        (lambda s: anyorder.predict(s.denoiser, s.state, "confidence"), "it must be of the class Sampler"),
        (lambda s: anyorder.step(s.state, None, s.sampler), "it must be of the class Prediction"),
        (lambda s: anyorder.evaluate(s.denoiser, s.task, None, ["confidence"], 2), "there are no problems"),
        (lambda s: anyorder.evaluate(*s.compared, None), "steps is None; give a budget"),
        (lambda s: anyorder.evaluate(*s.compared, []), "steps is \\[\\]; give a budget"),
        (lambda s: anyorder.evaluate(*s.compared, 2, seed=None), "seed is None"),
        (lambda s: anyorder.evaluate(*s.compared, 2, seed=2**40), "seed is 1099511627776; it must be a number"),
        (lambda s: anyorder.evaluate(*s.compared, 2, batch_size=0), "batch_size is 0"),
        (lambda s: anyorder.evaluate(*s.compared, 2, noise=5), "noise is 5; it must be a list or None"),
        (lambda s: anyorder.pareto(*s.compared, 5), "blocks is 5; it must be a list"),
        (lambda s: anyorder.pareto(*s.compared, []), "there is nothing to measure"),
        (lambda s: anyorder.pass_at_n(*s.compared, None, steps=2), "draws is None"),
        (lambda s: anyorder.headroom(s.denoiser, s.task, s.problems, None), "steps is None"),
        (lambda s: anyorder.fit_order(s.denoiser, s.task, s.problems, None), "folder is None"),
        (lambda s: anyorder.run_recipe(5, "folder"), "recipe is 5; it must be of the class DenoiserRecipe or"),
        (lambda s: anyorder.load_recipe("sudoku4-order", "seed=1"), "overrides is 'seed=1'; it must be a list or None"),
        (lambda s: s.task.load(5), "path is 5; it must be a text or a path"),
        (lambda s: s.task.load(__file__, "all"), "limit is 'all'; it must be a whole number or None"),
        (lambda s: s.task.parse(5), "text is 5; it must be a text"),
        (lambda s: s.task.generate(None, 0), "count is None"),
        (lambda s: s.task.generate(-1, 0), "the number of problems is -1"),
        (lambda s: s.task.generate(1, "x"), "seed is 'x'"),
        (lambda s: s.task.check(None, s.decoded.tokens), "instances is None; it must be of the class Instances"),
        (lambda s: s.task.check(s.problems, [0]), "tokens is an object of the class list; it must be of the class Tensor"),
        (lambda s: anyorder.Transformer(None, 0, 4, 8, 1, ["everything"]), "vocab_size is None"),
        (lambda s: anyorder.Ends(5), "tokens is 5; it must be a list"),
    ],
)  # fmt: skip
def test_one_clear_error_for_an_argument_of_a_wrong_kind(setup: SimpleNamespace, call: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        call(setup)


def test_text_names_a_file_wherever_a_path_does(setup: SimpleNamespace, tmp_path: Path) -> None:
    setup.decoded.save(str(tmp_path / "decoded.safetensors"))
    assert anyorder.Decoded.load(str(tmp_path / "decoded.safetensors")).tokens.equal(setup.decoded.tokens)
    anyorder.evaluate(*setup.compared, 2).save(str(tmp_path / "report.json"))
    assert (tmp_path / "report.json").is_file()


def test_numbers_of_numpy_are_numbers_and_truth_values_are_none() -> None:
    check_argument("n", np.int64(3), int)
    check_argument("n", np.float32(3), float)
    check_argument("flag", True, bool | None)
    check_argument("names", ("a", "b"), list | tuple)
    with pytest.raises(BadInput, match="n is True; it must be a whole number"):
        check_argument("n", True, int)


def test_the_annotations_of_own_code_are_not_enforced() -> None:
    class Own(anyorder.Task):
        vocab_size, mask_token_id, length = 3, 0, 2

        def load(self, path: str) -> Any:
            return path

        def check(self, instances: Any, tokens: Any) -> Any:
            raise NotImplementedError

    assert Own().load(Path("file")) == Path("file")


def test_signatures_stay_as_they_are() -> None:
    @checked("n")
    def function(n: int, *more: int, key: "str | None" = None) -> int:
        """Its text."""
        return n

    assert list(inspect.signature(function).parameters) == ["n", "more", "key"] and function.__doc__ == "Its text."
    assert function(1, 2, key="x") == function(n=1) == 1
