"""What all tasks share: the base class, the registry, files, and the match of task and denoiser."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import anyorder
from anyorder.cli import app
from anyorder.errors import BadInput, shorten
from anyorder.registry import TASKS
from anyorder.tasks import CheckResult, Instances, Task, check_fits, make_task, task_class
from anyorder.tasks.math_prompts import read_problems
from anyorder.zoo import zoo_names

DOCS = Path(__file__).resolve().parents[1] / "docs"
WITHOUT_MODEL = [name for name in TASKS.names() if name != "math"]


class Parity(Task):
    """The smallest task: bits with an even sum."""

    def __init__(self, bits: int = 4) -> None:
        self.bits = bits
        self.vocab_size, self.mask_token_id, self.length = 3, 2, bits

    def check(self, instances: Instances, tokens: Tensor) -> CheckResult:
        even = tokens.sum(dim=1) % 2 == 0
        return CheckResult(even, even.float())


def table(vocab_size: int, mask_token_id: int) -> anyorder.WrappedDenoiser:
    return anyorder.WrappedDenoiser(torch.nn.Embedding(vocab_size, vocab_size), mask_token_id, vocab_size)


# ---- the base class -----------------------------------------------------------------------------------------------------


def test_a_task_needs_nothing_but_a_checker() -> None:
    task, tokens = Parity(), torch.tensor([[0, 1, 1, 2]])
    problem = Instances(tokens, tokens == 2)
    assert task.options == {"bits": 4}
    assert (task.pad_token_id, task.sequential, task.difficulty_order, task.relations()) == (None, False, (), {})
    assert task.augment(tokens, tokens, None) == (tokens, tokens)  # type: ignore[arg-type]
    assert (task.measure(problem, tokens), task.dead_ends(problem, tokens)) == ({}, None)
    assert torch.equal(task.generated(problem, tokens), problem.maskable)
    assert (task.format(tokens[0]), task.notes(tokens[0]), task.hidden_tokens()) == ("0 1 1 2", [], [])
    assert task.drawing().kind == "sequence"
    assert task.main_metric(problem) == "instance_correct"


def test_what_a_task_does_not_offer_is_one_clear_error() -> None:
    task, tokens = Parity(), torch.zeros(1, 4, dtype=torch.int64)
    for ask, message in (
        (lambda: task.generate(1, 0), "has no generator"),
        (lambda: task.load("some.txt"), "reads no files"),
        (lambda: task.parse("0101"), "reads no problems as text"),
        (lambda: task.texts(Instances(tokens, tokens == 2), tokens), "is not made of text"),
    ):
        with pytest.raises(BadInput, match=f"the task test_tasks:Parity {message}"):
            ask()


def test_a_class_without_a_checker_is_no_task() -> None:
    with pytest.raises(TypeError, match="abstract"):
        type("Half", (Task,), {})()


@pytest.mark.parametrize("name", WITHOUT_MODEL)
def test_a_task_is_made_again_from_its_options(name: str) -> None:
    task = make_task(name)
    again = make_task(task.name, **task.options)
    assert task.name == name
    assert type(again) is type(task)
    assert again.options == task.options
    assert (again.vocab_size, again.mask_token_id, again.length) == (task.vocab_size, task.mask_token_id, task.length)
    assert all(isinstance(value, str | int | float | bool) for value in task.options.values())


def test_a_task_of_another_module_goes_by_reference() -> None:
    task = make_task("test_tasks:Parity", bits=6)
    assert (task.name, task.length) == ("test_tasks:Parity", 6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sudoko", {}, "task 'sudoko' is unknown: use one of .*sudoku"),
        ("sudoku", {"side": 9}, "the task sudoku has no option 'side': its options are box, layout"),
        ("sat", {"variables": "many"}, "variables is 'many'; it must be a whole number"),
        ("json:dumps", {}, "json:dumps is not a task: it must be a subclass"),
    ],
)
def test_wrong_names_and_options(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        make_task(name, **options)


def test_long_excerpts_end_with_an_ellipsis() -> None:
    assert shorten("x" * 40) == "x" * 40
    assert shorten("x" * 41) == "x" * 37 + "..."


# ---- files --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITHOUT_MODEL)
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no such file: .*none\.txt"):
        make_task(name).load(str(tmp_path / "none.txt"))


def test_a_problem_that_looks_like_a_missing_file_is_one() -> None:
    result = CliRunner().invoke(app, ["sample", "nosuch.txt"])
    assert result.exit_code != 0
    assert "no such file: nosuch.txt" in str(result.exception) + result.output


FORMATS = (DOCS / "formats.md").read_text(encoding="utf-8")
EXAMPLE = re.compile(r"(?:File\s`([\w.]+)`(?:,\s+options\s+`([^`]+)`)?:\n\n)?```text\n(.*?)```", re.DOTALL)
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", FORMATS, re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("name", TASKS.names())
def test_every_task_reads_what_the_page_of_formats_shows(name: str, tmp_path: Path) -> None:
    *files, (_, _, text) = EXAMPLE.findall(SECTIONS[name])
    assert files
    for file, given, content in files:
        path = tmp_path / file
        path.write_text(content, encoding="utf-8")
        if name == "math":  # whose task takes a model
            assert len(read_problems(str(path))) == 3
            continue
        task = make_task(name, **{key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", given)})
        assert len(task.load(str(path))) >= 1
        assert len(task.parse(text)) == 1


# ---- a task and a denoiser ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("denoiser", "message"),
    [
        (table(5, 2), r"disagree: vocabulary size 3 of the task against 5 of the denoiser\. anyorder\.task_for"),
        (table(3, 0), "disagree: mask token 2 of the task against 0"),
        (table(5, 0), "disagree: vocabulary size .*; mask token"),
    ],
)
def test_a_denoiser_that_does_not_fit_is_refused(denoiser: anyorder.WrappedDenoiser, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        check_fits(Parity(), denoiser)
    with pytest.raises(BadInput, match=message):
        anyorder.task_for(denoiser, "test_tasks:Parity")


def test_sequences_that_are_too_long_are_refused(tiny_transformer: Any) -> None:
    task = make_task("sorting", items=8, values=4)
    with pytest.raises(BadInput, match="disagree: length 16 of the task against 12 of the denoiser"):
        check_fits(task, tiny_transformer)
    short = task.generate(1, 0)
    check_fits(task, tiny_transformer, Instances(short.tokens[:, :12], short.maskable[:, :12]))


def test_task_for_makes_the_task_that_a_denoiser_was_trained_for() -> None:
    for name in zoo_names():
        denoiser = anyorder.load_denoiser(name)
        check_fits(anyorder.task_for(denoiser), denoiser)
    denoiser = anyorder.load_denoiser("sudoku4")
    assert anyorder.task_for(denoiser).options == {"box": 2, "layout": "infill"}
    with pytest.raises(BadInput, match="the denoiser sudoku4 is for sudoku, not for sat"):
        anyorder.task_for(denoiser, "sat")
    with pytest.raises(BadInput, match="is for sudoku with other options than box=3"):
        anyorder.task_for(denoiser, box=3)


def test_a_denoiser_of_no_known_task_asks_for_its_name() -> None:
    with pytest.raises(BadInput, match="does not say which task it is for: name one"):
        anyorder.task_for(table(3, 2))
    assert anyorder.task_for(table(3, 2), "test_tasks:Parity", bits=8).length == 8


def test_the_template_of_the_docs_is_a_complete_task(tmp_path: Path) -> None:
    page = (DOCS / "extending.md").read_text(encoding="utf-8")
    block = re.search(r"## A task of your own\n.*?```python\n(.*?)```", page, re.DOTALL)
    assert block is not None
    assert len([line for line in block[1].splitlines() if line.strip()]) <= 60
    exec(compile(block[1], "block", "exec"), {"__name__": "block"})
    assert issubclass(task_class("brackets"), Task)
    task = make_task("brackets", pairs=3)
    problems = task.generate(20, seed=1)
    assert problems.x0 is not None
    assert task.check(problems, problems.x0).instance_correct.all()
    assert not task.check(problems, problems.x0.flip(1)).instance_correct.any()
    (tmp_path / "some.txt").write_text("(_(__)\n()()__\n")
    assert len(task.load(tmp_path / "some.txt")) == 2
    assert task.format(problems.x0[0]).count("(") == 3
    with pytest.raises(BadInput, match="must be 6 characters"):
        task.parse("(((")
