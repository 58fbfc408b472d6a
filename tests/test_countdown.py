"""The generator, the solver, the checker and the file formats of Countdown."""

import json
from fractions import Fraction
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyorder.errors import BadInput
from anyorder.session import key_values
from anyorder.tasks.base import Instances
from anyorder.tasks.countdown import Countdown
from anyorder.tasks.countdown_rules import equations, is_solution, solve
from anyorder.tasks.generation import make_problems
from anyorder.tasks.vocabulary import EOS, MASK, PAD, SEP, YE_VOCABULARY
from conftest import shared_file

PROBLEM, SOLUTION = [86, 28, 13, 31, 96], "86+28=114,31-13=18,114-18=96"


def reachable(numbers: tuple[int, ...]) -> set[int]:
    """Everything that can be made of all the numbers, by recursion over every ordered choice."""
    if len(numbers) == 1:
        return set(numbers)
    made = set()
    for a, b, *rest in permutations(numbers):
        results = [a + b, a * b] + ([a - b] if a >= b else []) + ([a // b] if b and a % b == 0 else [])
        for result in results:
            made |= reachable((result, *rest))
    return made


def with_answer(task: Countdown, instances: Instances, answer: str, end: int = EOS, after: int = PAD) -> torch.Tensor:
    """Completed tokens (1, L) whose answer is a text."""
    tokens = instances.tokens.clone()
    start = int((tokens[0] == SEP).nonzero()[0]) + 1
    tokens[0, start:] = after
    tokens[0, start : start + len(answer)] = torch.tensor([YE_VOCABULARY.index(c) for c in answer])
    tokens[0, start + len(answer)] = end
    return tokens


def says(answer: str, **changes: int) -> bool:
    task = Countdown(4)
    instances = task.encode([PROBLEM], None)
    return bool(task.check(instances, with_answer(task, instances, answer, **changes)).instance_correct)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=3, max_size=4), st.integers(0, 60))
def test_the_solver_agrees_with_brute_force(numbers: list[int], target: int) -> None:
    first = np.zeros((len(numbers) - 1, 4), np.int64)
    found = solve(np.array(numbers), target, 1, first)
    assert bool(found) == (target in reachable(tuple(numbers)))
    assert not found or is_solution(numbers, target, equations(first))


def test_the_ways_to_make_a_target_are_counted() -> None:
    # three pairs to begin with; of what a pair makes, 2, 1, 0 and 1, only 2 leads to 3, by + alone
    assert solve(np.array([1, 1, 1]), 3, 100, np.zeros((2, 4), np.int64)) == 3
    assert solve(np.array([1, 1, 1]), 3, 2, np.zeros((2, 4), np.int64)) == 2
    assert solve(np.array([1, 1, 1]), 7, 100, np.zeros((2, 4), np.int64)) == 0


@pytest.mark.parametrize("numbers", [3, 4, 5])
def test_generated_problems_are_solved_by_their_stored_solution(numbers: int) -> None:
    task = Countdown(numbers)
    instances = task.generate(60, seed=4)
    assert instances.x0 is not None
    assert task.check(instances, instances.x0).instance_correct.all()
    assert (task.check(instances, instances.x0).cell_accuracy == 1).all()
    assert (instances.labels["solutions"] >= 1).all()
    x0, tokens = task.augment(instances.x0, instances.tokens, np.random.default_rng(0))
    assert task.check(Instances(tokens, tokens == MASK, x0), x0).instance_correct.all()
    assert (tokens != instances.tokens).any(dim=1).float().mean() > 0.5
    for before, after in zip(instances.tokens, tokens, strict=True):
        assert sorted(task._problem(before)[:-1]) == sorted(task._problem(after)[:-1])
        assert task._problem(before)[-1] == task._problem(after)[-1]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 8), st.integers(0, 8))
def test_a_problem_depends_on_the_seed_and_its_number_only(seed: int, few: int, more: int) -> None:
    task = Countdown(3)
    some, all_of_them = task.generate(few, seed), task.generate(few + more, seed)
    assert torch.equal(some.tokens, all_of_them.tokens[:few])
    assert some.x0 is not None and all_of_them.x0 is not None and torch.equal(some.x0, all_of_them.x0[:few])


def test_the_layout_is_prefix_separator_solution_end_padding() -> None:
    task = Countdown(4)
    instances = task.encode([PROBLEM], [SOLUTION])
    assert instances.x0 is not None
    text = [YE_VOCABULARY[t] for t in instances.x0[0].tolist()]
    assert "".join(text[:14]) == "86,28,13,31,96" and text[14] == "[SEP]"
    assert "".join(text[15:43]) == SOLUTION and text[43] == "[EOS]" and set(text[44:]) == {"[PAD]"}
    assert torch.equal(instances.maskable[0], torch.arange(task.length) > 14)
    assert torch.equal(instances.tokens == MASK, instances.maskable)


def test_the_longest_solutions_fit() -> None:
    for problem, solution in (
        ([100, 100, 100, 100], "100*100=10000,10000/100=100"),
        ([99, 99, 99, 99, 100], "99*99=9801,9801+99=9900,9900/99=100"),
        ([97, 99, 98, 99, 97, 99], "98*99=9702,97*99=9603,9702*97=941094,941094/9603=98"),
    ):
        Countdown(len(problem) - 1).encode([problem], [solution])
    with pytest.raises(BadInput, match="there is room for 44"):
        Countdown(3).encode([[999, 999, 999, 999]], ["999*999=998001,998001/999=999"])


def test_targets_can_be_chosen_and_left_out() -> None:
    task = Countdown(3)
    targets = [task._problem(row)[-1] for row in task.generate(200, 0, targets=(20, 23), exclude=[21]).tokens]
    assert set(targets) == {20, 22, 23}
    assert {task._problem(row)[-1] for row in task.generate(5, 0, targets=50).tokens} == {50}


@pytest.mark.parametrize(
    "excluded", [[20, 21], (21, 20), {20, 21}, np.array([20, 21]), range(20, 22), "20,21", " 21 , 20"]
)  # fmt: skip
def test_targets_to_leave_out_may_be_given_in_any_form(excluded: Any) -> None:
    task = Countdown(3)
    wanted = task.generate(20, 0, targets=(20, 23), exclude=[20, 21])
    assert torch.equal(task.generate(20, 0, targets=(20, 23), exclude=excluded).tokens, wanted.tokens)
    one = key_values(["targets=20-21", "exclude=20"], "--generate")
    assert {task._problem(row)[-1] for row in make_problems(task, 5, 0, one).tokens} == {21}
    several = key_values(["targets=20-22", "exclude=20,21"], "--generate")
    assert {task._problem(row)[-1] for row in make_problems(task, 5, 0, several).tokens} == {22}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": "many"}, "must be a number, or a range"),
        ({"targets": True}, "targets True must be a number, or a range"),
        ({"targets": (20.5, 30)}, r"targets \(20.5, 30\) must be a number, or a range"),
        ({"targets": ("20", "30")}, "must be a number, or a range"),
        ({"targets": (30, 20)}, "between 1 and 100, low end first"),
        ({"targets": (0, 20)}, "between 1 and 100"),
        ({"exclude": ["14"]}, r"exclude is \['14'\]; it must name targets: one, a list of them, or a text such as 14,39"),
        ({"exclude": "14;39"}, "exclude is '14;39'; it must name targets"),
        ({"exclude": 14.0}, "exclude is 14.0; it must name targets"),
        ({"exclude": [True]}, "it must name targets"),
        ({"exclude": ""}, "it must name targets"),
        (key_values(["exclude=14-39"], "--generate"), "exclude is 14-39; it must name targets"),
        ({"targets": 14, "exclude": [14]}, "leaves no target"),
    ],
)
def test_bad_options_say_what_is_wrong(options: dict, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Countdown(3).generate(1, 0, **options)


def test_any_true_solution_is_right() -> None:
    assert says(SOLUTION)
    assert says("31-13=18,28+86=114,114-18=96")  # another order of equations and operands


@pytest.mark.parametrize(
    "answer",
    [
        "86+28=115,31-13=18,114-18=96",  # a false equation
        "86+28=114,31-13=18,114+18=132",  # another target
        "86+10=96",  # a number that is not there
        "86+28=114,114-18=96",  # a result that is not there yet
        "86+28=114,86-28=58,114-58=56",  # numbers twice
        "86+28=114,31-13=18",  # unfinished
        "86+28=114,31-13=18,114-18=96,96-0=96",  # one equation too many
        "86+28=114,31-13=18,114-18=096",  # a leading zero
        "86+28=114,13-31=-18,114-18=96",  # a negative result
        "86+28=114,31-13=18,114-18=96,",  # a comma too many
        "86+28=114=31-13=18",  # no equations
        "",
    ],
)
def test_a_solution_that_breaks_a_rule_is_wrong(answer: str) -> None:
    assert not says(answer)


def test_every_number_must_be_used() -> None:
    assert not is_solution([48, 2, 5], 96, "48*2=96")
    assert not is_solution([48, 2, 5, 5], 96, "5-5=0,48*2=96")
    assert is_solution([48, 2, 5, 5], 96, "5-5=0,48*2=96,0+96=96")


def test_division_must_be_exact_and_not_by_zero() -> None:
    assert is_solution([7, 2, 4], 7, "4/2=2,7+2=9") is False
    assert is_solution([7, 2, 2], 4, "2/2=1,7/1=7") is False
    assert is_solution([7, 2, 2], 6, "2/2=1,7-1=6")
    assert not is_solution([7, 2, 1], 4, "7/2=3,3+1=4")
    assert not is_solution([5, 3, 3], 0, "3-3=0,5/0=0")
    assert is_solution([5, 3, 3], 0, "3-3=0,0/5=0")


def test_the_end_must_be_marked_and_followed_by_padding_alone() -> None:
    assert not says(SOLUTION, end=PAD)
    assert not says(SOLUTION, end=MASK)
    assert not says(SOLUTION, after=EOS)
    assert not says(SOLUTION, after=YE_VOCABULARY.index("1"))


def test_a_changed_problem_is_wrong() -> None:
    task = Countdown(4)
    instances = task.encode([PROBLEM], [SOLUTION])
    assert instances.x0 is not None
    changed = instances.x0.clone()
    changed[0, 12] = YE_VOCABULARY.index("8")
    assert not task.check(instances, changed).instance_correct.item()
    unsolved = Instances(instances.tokens, instances.maskable)
    assert task.check(unsolved, instances.x0).cell_accuracy.item() == 1
    assert task.check(unsolved, changed).cell_accuracy.item() == 0


def texts(left: list[int]) -> set[str]:
    """The texts of all true equations that use all the numbers, by recursion over every ordered choice."""
    if len(left) == 1:
        return {f"|{left[0]}"}
    found = set()
    for a, b, *rest in permutations(left):
        results = {"+": a + b, "*": a * b} | ({"-": a - b} if a >= b else {}) | ({"/": a // b} if b and a % b == 0 else {})
        for sign, result in results.items():
            found |= {f"{a}{sign}{b}={result},{more}" for more in texts([*rest, result])}
    return found


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 0.9]), st.integers(2, 9))
def test_the_nearest_solution_is_that_of_enumeration(seed: int, changed: float, largest: int) -> None:
    task, rng = Countdown(3), np.random.default_rng(seed)
    numbers = [int(number) for number in rng.integers(1, largest + 1, 3)]
    every = [(answer, int(target)) for answer, target in (text.split(",|") for text in sorted(texts(numbers)))]
    stored, target = every[rng.integers(len(every))]
    problem = task.encode([[*numbers, target]], [stored])
    solutions = [answer for answer, made in every if made == target]
    other = with_answer(task, problem, solutions[rng.integers(len(solutions))])
    noise = torch.from_numpy(rng.integers(0, 21, other.shape))  # masks, separators and ends too
    tokens = torch.where(problem.maskable & torch.from_numpy(rng.random(other.shape) < changed), noise, other)
    certain = torch.from_numpy(rng.random(other.shape) < 0.4)
    weights = torch.where(certain, task.length + 1, 1) * (tokens != MASK) * problem.maskable

    found = task.nearest_solutions(problem, tokens, certain)
    assert task.check(problem, found).instance_correct.all()
    costs = [int((weights * (with_answer(task, problem, answer) != tokens)).sum()) for answer in solutions]
    assert int((weights * (found != tokens)).sum()) == min(costs)
    if not changed:
        assert torch.equal(found, other)


def test_nothing_divided_is_a_solution_too() -> None:
    """The published search leaves 0/7 out; the rules do not."""
    task = Countdown(4)
    problem = task.encode([[5, 5, 7, 9, 9]], ["5-5=0,0*7=0,0+9=9"])
    tokens = with_answer(task, problem, "5-5=0,0/7=0,0+9=9")
    assert task.check(problem, tokens).instance_correct.all()
    assert torch.equal(task.nearest_solutions(problem, tokens, problem.maskable), tokens)


def test_cell_accuracy_is_the_share_of_generated_positions_equal_to_the_stored_solution() -> None:
    task = Countdown(4)
    instances = task.encode([PROBLEM], [SOLUTION])
    assert instances.x0 is not None
    near = instances.x0.clone()
    near[0, 15:17] = MASK
    assert task.check(instances, near).cell_accuracy.item() == pytest.approx(1 - 2 / (task.length - 15))


def test_answers_are_printed_up_to_their_end() -> None:
    task = Countdown(4)
    instances = task.encode([PROBLEM], [SOLUTION])
    assert instances.x0 is not None
    assert task.format(instances.x0[0]) == SOLUTION
    assert set(task.format(instances.tokens[0])) == {"."}
    odd = instances.x0[0].clone()
    odd[15] = SEP
    assert task.format(odd) == "?" + SOLUTION[1:]


def test_relations_hold_between_neighbours_and_between_equal_characters() -> None:
    task = Countdown(3)
    tokens = task.parse("3,30,100,90").tokens
    near, character = (task.relations()[name](tokens)[0] for name in ("near", "character"))
    assert near[10].nonzero()[:, 0].tolist() == list(range(6, 15))
    assert character[0].nonzero()[:, 0].tolist() == [0, 2]  # the 3 of 3 and of 30
    assert not character[tokens[0] == MASK].any() and not character[tokens[0] == SEP].any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3", "3 numbers with its target; the task is set up for 4"),
        ("1,2,3,x,5", "'x' is not a number"),
        ("1,2,3,,5", "'' is not a number"),
        ("1,2,3,0,5", "'0' is not a number from 1 to 999"),
        ("1,2,3,1000,5", "'1000' is not a number"),
        ("1,1,1,1,999", "cannot make 999"),
    ],
)
def test_bad_problems_say_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Countdown(4).parse(text)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="0123456789,+-= x²", max_size=25))
def test_nonsense_is_bad_input_and_nothing_else(text: str) -> None:
    try:
        instances = Countdown(3).parse(text)
    except BadInput:
        return
    assert Countdown(3).check(instances, instances.x0).instance_correct.all()


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        '{"input": 5, "output": "1"}',
        '{"input": "1,2,3"}',
        '{"input": "1,2,3,6", "output": "1+2=3,3+3=7"}',
        '{"input": "1,2,3,7,13", "output": "1+2=3,3+3=6,6+7=13"}',
        '{"input": "1,2", "output": "6"}',
        '{"input": "999,999,999,999", "output": "999*999=998001,998001/999=999"}',
    ],
)
def test_a_bad_line_of_a_file_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"input": "1,2,3,6", "output": "1+2=3,3+3=6"}\n' + line + "\n")
    with pytest.raises(BadInput, match="line 2"):
        Countdown(3).load(path)


def test_both_published_formats_are_read(tmp_path: Path) -> None:
    path = tmp_path / "both.jsonl"
    path.write_text('{"input": "1,2,3,6", "output": "2+3=5,1+5=6"}\n')
    assert Countdown.options_of(path.open().readline, None) == {"numbers": 3}
    with path.open("a") as file:
        file.write('\n{"input": "30,100,93", "output": "23"}\n')
    task = Countdown(3)
    instances = task.load(path)
    assert instances.x0 is not None and len(instances) == 2
    assert task.format(instances.x0[0]) == "2+3=5,1+5=6"  # as the file has it
    assert task.check(instances, instances.x0).instance_correct.all()
    assert len(task.load(path, limit=1)) == 1
    with path.open("a") as file:
        file.write('{"input": "1,1,1", "output": "99"}\n')
    with pytest.raises(BadInput, match="line 4: 1,1,1 cannot make 99: it has no solution"):
        task.load(path)
    path.write_text("\n")
    with pytest.raises(BadInput, match="holds no problems"):
        task.load(path)


def test_the_number_of_numbers_is_read_off_the_problem() -> None:
    assert Countdown.options_of(None, "86,28,13,31,96") == {"numbers": 4}
    assert Countdown.options_of(None, "1,2") == {}
    assert Countdown.options_of(lambda: json.dumps({"input": "1,2,3", "output": "6"}), None) == {"numbers": 3}
    assert Countdown.options_of(lambda: "[]", None) == Countdown.options_of(lambda: "x", None) == {}
    with pytest.raises(BadInput, match="use 3, 4 or 5"):
        Countdown(6)


@pytest.mark.parametrize("numbers", [3, 4, 5])
def test_the_generator_has_the_distribution_of_the_published_file(numbers: int) -> None:
    task = Countdown(numbers)
    published = task.load(shared_file(f"countdown/cd{numbers}_test.jsonl"))
    assert published.x0 is not None and len(published) == 1000
    assert task.check(published, published.x0).instance_correct.all()
    problems = np.array([task._problem(row) for row in published.tokens])
    assert [task._solve(problem) for problem in problems.tolist()] == [task.format(row) for row in published.x0]

    targets = set(problems[:, -1].tolist())
    assert len(targets) == 9
    ours = task.generate(2000, seed=0, exclude=[t for t in range(10, 101) if t not in targets])
    assert ours.x0 is not None
    numbers_of_ours = np.array([task._problem(row) for row in ours.tokens])[:, :-1]
    quantiles = [0.05, 0.25, 0.5, 0.75, 0.95]
    assert np.quantile(numbers_of_ours, quantiles) == pytest.approx(np.quantile(problems[:, :-1], quantiles), abs=4)
    answers, theirs = ([task.format(row) for row in x0] for x0 in (ours.x0, published.x0))
    for operation in "+-*/":
        share, wanted = (np.mean([a.count(operation) / (numbers - 1) for a in texts]) for texts in (answers, theirs))
        assert share == pytest.approx(wanted, abs=0.03), operation
    assert np.mean([len(a) for a in answers]) == pytest.approx(np.mean([len(a) for a in theirs]), abs=0.3)


def test_the_file_of_d1_is_read_and_solved() -> None:
    task = Countdown(3)
    instances = task.load(shared_file("countdown/d1_cd3_test.jsonl"))
    assert len(instances) == 256 and instances.x0 is not None
    assert task.check(instances, instances.x0).instance_correct.all()


def test_every_answer_of_a_tiny_problem_is_judged_as_exact_arithmetic_judges_it() -> None:
    exact = {"+": Fraction.__add__, "-": Fraction.__sub__, "*": Fraction.__mul__, "/": Fraction.__truediv__}
    right = 0
    for (a, b, c), first, second in product(permutations((2, 3, 4)), "+-*/", "+-*/"):
        result = exact[first](Fraction(a), Fraction(b))
        if result >= 0 and result.denominator == 1:  # others cannot be written
            true = exact[second](result, Fraction(c)) == 10
            assert is_solution((2, 3, 4), 10, f"{a}{first}{b}={result},{result}{second}{c}=10") == true
            right += true
    assert right == 4  # 2*3+4 and 3*4-2, operands either way
