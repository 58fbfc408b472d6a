"""The generator, the checker, the relations and the file format of addition and multiplication."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyorder.errors import BadInput
from anyorder.tasks.arithmetic import Arithmetic
from anyorder.tasks.base import Instances

OPERATIONS = {"add": lambda a, b: a + b, "multiply": lambda a, b: a * b}
SMALL = [("add", 1), ("add", 3), ("add", 40), ("multiply", 1), ("multiply", 3), ("multiply", 10)]


def numbers(task: Arithmetic, tokens: torch.Tensor) -> list[int]:
    """Both numbers and the result."""
    rows = (tokens - 1).split([task.digits, task.digits, task.result_digits])
    return [int("".join(map(str, row.tolist()))) for row in rows]


@pytest.mark.parametrize(
    ("operation", "text", "equation", "carry"),
    [
        ("add", "123+456", "123+456=0579", 0),
        ("add", "1+999", "001+999=1000", 3),
        ("add", "505+505", "505+505=1010", 1),
        ("add", "555+555", "555+555=1110", 1),
        ("add", "490+510", "490+510=1000", 2),
        ("add", "90+9", "090+009=0099", 0),
        ("multiply", "12*34", "012*034=000408", 1),
        ("multiply", "999*999", "999*999=998001", 26),
        ("multiply", "0*7", "000*007=000000", 0),
    ],
)
def test_results_by_hand(operation: str, text: str, equation: str, carry: int) -> None:
    task = Arithmetic(operation, 3)
    problem = task.parse(text)
    assert problem.x0 is not None
    assert task.format(problem.x0[0]) == equation
    assert problem.labels["carry"].tolist() == [carry]
    assert task.format(problem.tokens[0]) == equation.partition("=")[0] + "=" + "_" * task.result_digits


@pytest.mark.parametrize(("operation", "digits"), SMALL)
def test_the_stored_result_is_right_and_stays_so(operation: str, digits: int) -> None:
    task = Arithmetic(operation, digits)
    problems = task.generate(50, 3)
    assert problems.x0 is not None
    for row in problems.x0:
        one, other, result = numbers(task, row)
        assert result == OPERATIONS[operation](one, other)
    x0, tokens = task.augment(problems.x0, problems.tokens, np.random.default_rng(0))
    changed = Instances(tokens, tokens == task.mask_token_id, x0)
    assert torch.equal(changed.maskable, problems.maskable)
    for checked in (task.check(problems, problems.x0), task.check(changed, x0)):
        assert checked.instance_correct.all() and (checked.cell_accuracy == 1).all()


def test_augmentation_exchanges_digits_of_a_sum_and_factors_of_a_product() -> None:
    for operation, expected in (("add", {"12+34", "14+32", "32+14", "34+12"}), ("multiply", {"12*34", "34*12"})):
        task = Arithmetic(operation, 2)
        problem = task.parse(min(expected))
        assert problem.x0 is not None
        _, tokens = task.augment(problem.x0.repeat(60, 1), problem.tokens.repeat(60, 1), np.random.default_rng(0))
        assert {task.problem_text(row) for row in tokens} == expected


@pytest.mark.parametrize("options", [{}, {"carry": 0.5}, {"short": 0.5}, {"givens": 2}])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**9), few=st.integers(1, 8), more=st.integers(0, 8))
def test_a_problem_depends_on_the_seed_and_its_number_only(options: dict[str, Any], seed: int, few: int, more: int) -> None:
    task = Arithmetic("add", 5)
    assert torch.equal(task.generate(few, seed, **options).tokens, task.generate(few + more, seed, **options).tokens[:few])


def test_options_of_the_generator() -> None:
    task = Arithmetic("add", 12)
    digits = task.generate(2000, 0).tokens[:, :24]
    assert torch.bincount(digits.flatten(), minlength=11)[1:].tolist() == pytest.approx([4800] * 10, rel=0.1)
    plain, half, all_far = (np.mean(task.generate(2000, 0, carry=share).labels["carry"] > 5) for share in (0, 0.5, 1))
    assert plain < 0.01 and half == pytest.approx(all_far / 2, rel=0.3) and all_far > 0.05
    ones = task.generate(2000, 0, short=1.0).tokens[:, :24].view(-1, 2, 12) == 1
    assert ones[:, :, 0].double().mean().item() == pytest.approx(1 - 0.9 / 12, abs=0.03)  # all but those of 12 digits
    assert ones[:, :, -1].double().mean().item() == pytest.approx(0.1, abs=0.03)
    given = task.generate(200, 0, givens=4)
    assert (given.maskable.sum(dim=1) == 9).all() and given.maskable[:, 24:].any(dim=0).all()
    assert torch.equal(given.x0, task.generate(200, 0).x0)  # type: ignore[arg-type]
    assert not torch.equal(task.generate(200, 1).tokens, task.generate(200, 0).tokens)


@pytest.mark.parametrize(
    ("operation", "options", "message"),
    [
        ("add", {"carry": 2}, "carry is 2; it must be a share between 0 and 1"),
        ("add", {"carry": "much"}, "carry is 'much'"),
        ("add", {"short": -0.5}, "short is -0.5; it must be a share"),
        ("multiply", {"carry": 0.5}, "only sums have long carries"),
        ("add", {"givens": 4}, "givens is 4; of the 4 digits of the result 0 to all but one"),
        ("add", {"givens": 0.5}, "givens is 0.5"),
        ("add", {"count": 0}, "the number of problems is 0"),
        ("add", {"count": 2**30}, "do not fit into memory"),
    ],
)
def test_wrong_options_of_the_generator(operation: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Arithmetic(operation, 3).generate(**{"count": 2, "seed": 0, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"operation": "divide"}, "the operation is 'divide'; it must be add or multiply"),
        ({"digits": 0}, r"digits is 0; with the operation add it must lie in 1\.\.40"),
        ({"digits": 41}, r"1\.\.40"),
        ({"operation": "multiply", "digits": 11}, r"with the operation multiply it must lie in 1\.\.10"),
        ({"digits": "3"}, "digits is '3'; it must be a whole number"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Arithmetic(**options)


# ---- checking and relations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("result", "share"), [("0578", 0.75), ("9999", 0.25), ("0_79", 0.75)])
def test_a_wrong_or_missing_digit_is_wrong(result: str, share: float) -> None:
    task = Arithmetic("add", 3)
    problem = task.parse("123+456")
    tokens = problem.tokens.clone()
    tokens[0, 6:] = torch.tensor([0 if digit == "_" else int(digit) + 1 for digit in result])
    checked = task.check(problem, tokens)
    assert not checked.instance_correct.item() and checked.cell_accuracy.item() == share


def test_another_sum_that_is_right_is_not_what_was_asked() -> None:
    task = Arithmetic("add", 3)
    problem = task.parse("123+456")
    other = task.parse("124+455").x0
    assert other is not None
    assert not task.check(problem, other).instance_correct.item()
    bare = Instances(problem.tokens, problem.maskable)
    assert task.check(bare, problem.x0).instance_correct.item(), "no stored result is needed"  # type: ignore[arg-type]


def related(task: Arithmetic, name: str, position: int) -> list[int]:
    return task.relations()[name](torch.zeros(1, task.length))[0, position].nonzero()[:, 0].tolist()


def test_relations_of_a_sum() -> None:
    task = Arithmetic("add", 2)  # positions 0, 1 + 2, 3 = 4, 5, 6; place values 1, 0, 1, 0, 2, 1, 0
    assert related(task, "column", 5) == [0, 2, 5] and related(task, "column", 4) == [4]
    assert related(task, "number", 5) == [4, 5, 6] and related(task, "number", 0) == [0, 1]
    assert related(task, "lower", 4) == [0, 2, 5] and related(task, "lower", 6) == []
    assert related(task, "higher", 6) == [0, 2, 5] and related(task, "higher", 5) == [4]
    assert related(task, "below", 4) == [0, 1, 2, 3, 5, 6] and related(task, "below", 0) == [1, 3, 6]
    assert "product0" not in task.relations()


def test_relations_of_a_product_hold_the_factors_of_each_column() -> None:
    task = Arithmetic("multiply", 2)  # positions 0, 1 * 2, 3 = 4, 5, 6, 7; place values 1, 0, 1, 0, 3, 2, 1, 0
    assert [related(task, f"product{i}", 7) for i in range(2)] == [[1, 3], []]
    assert [related(task, f"product{i}", 6) for i in range(2)] == [[1, 2], [0, 3]]
    assert [related(task, f"product{i}", 5) for i in range(2)] == [[], [0, 2]]
    assert related(task, "product0", 0) == []


# ---- text and files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "written"),
    [
        ("123+456", "123+456"),
        (" 7 + 08 = 15 ", "007+008"),
        ("123+456=579", "123+456"),
        ("123+456=00579", "123+456"),
        ("123+456=0__9", "123+456=0__9"),
        ("123+456=____", "123+456"),
    ],
)
def test_problems_typed_by_a_person(typed: str, written: str) -> None:
    task = Arithmetic("add", 3)
    problem = task.parse(typed)
    assert task.problem_text(problem.tokens[0]) == written
    assert int(problem.maskable.sum()) == (2 if "__9" in typed else 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("123*456", r"'123\*456' is no problem of this task: write it as 123\+456"),
        ("", "'' is no problem"),
        ("12-3", "'12-3' is no problem"),
        ("1+2+3", "is no problem"),
        ("1234+1", "the number 1234 has 4 digits; the task is set up for 3"),
        ("123+456=578", "the result 578 is wrong: it is 0579"),
        ("123+456=10579", "the result 10579 is wrong"),
        ("123+456=1___", "the result 1___ is wrong: it is 0579"),
        ("123+456=_79", "the result _79 has 3 digits; with _ it must have 4"),
    ],
)
def test_bad_problems_say_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Arithmetic("add", 3).parse(text)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="0123456789+*=_ ²٣", max_size=20))
def test_nonsense_is_bad_input_and_nothing_else(text: str) -> None:
    for operation in OPERATIONS:
        try:
            Arithmetic(operation, 3).parse(text)
        except BadInput:
            continue


def test_files_hold_one_problem_per_line(tmp_path: Path) -> None:
    path = tmp_path / "sums.txt"
    path.write_text("123+456\n\n 1+999=1000\n123+456=0__9\n")
    task = Arithmetic("add", 3)
    assert Arithmetic.options_of(path.open().readline, None) == {"operation": "add", "digits": 3}
    problems = task.load(path)
    task.save(problems, tmp_path / "again.txt")
    assert (tmp_path / "again.txt").read_text() == "123+456=0579\n001+999=1000\n123+456=0__9\n"
    assert torch.equal(task.load(tmp_path / "again.txt").tokens, problems.tokens)
    assert len(task.load(path, limit=1)) == 1
    path.write_text("123+456\n123+456=1\n")
    with pytest.raises(BadInput, match="line 2: the result 1 is wrong"):
        task.load(path)
    path.write_text("")
    with pytest.raises(BadInput, match="holds no problems"):
        task.load(path)


def test_the_size_of_a_task_is_found_out() -> None:
    assert Arithmetic.options_of(None, "12*3456") == {"operation": "multiply", "digits": 4}
    assert Arithmetic.options_of(None, "1" * 41 + "+1") == {}
    assert Arithmetic.options_of(None, "twelve") == {}
