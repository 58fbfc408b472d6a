"""The generator, the checker and the file formats of Sudoku."""

from itertools import combinations, permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyorder.decoding.loop import decode
from anyorder.decoding.sampler import Sampler
from anyorder.errors import BadInput
from anyorder.tasks.sudoku import Sudoku
from anyorder.tasks.sudoku_classes import classes_of
from anyorder.tasks.sudoku_rules import TECHNIQUES, _search, count_solutions, generate_many, grade
from anyorder.tasks.vocabulary import YE_VOCABULARY
from anyorder.zoo import load_denoiser
from conftest import shared_file

EASY = "080050060460907108005000029970006500000872031300049000004025003010000480603100007"
SOLVED = "789251364462937158135468729978316542546872931321549876894725613217693485653184297"


def all_4x4_grids() -> np.ndarray:
    """Every valid 4x4 grid, by brute force over rows."""
    grids = []
    for rows in product(permutations(range(1, 5)), repeat=4):
        grid = np.array(rows)
        columns = all(len(set(grid[:, c])) == 4 for c in range(4))
        boxes = all(len(set(grid[r : r + 2, c : c + 2].ravel())) == 4 for r in (0, 2) for c in (0, 2))
        if columns and boxes:
            grids.append(grid.ravel())
    return np.array(grids, dtype=np.int8)


@pytest.fixture(scope="module")
def grids() -> np.ndarray:
    return all_4x4_grids()


def test_there_are_288_grids_of_4x4(grids: np.ndarray) -> None:
    empty = np.zeros(16, np.int8)
    assert len(grids) == 288
    assert count_solutions(empty, 2, 1000, empty.copy()) == 288


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 287), st.lists(st.booleans(), min_size=16, max_size=16))
def test_counting_solutions_agrees_with_brute_force(index: int, shown: list[bool]) -> None:
    every = all_4x4_grids_cached()
    puzzle = np.where(shown, every[index], 0).astype(np.int8)
    fits = ((puzzle == 0) | (every == puzzle)).all(axis=1).sum()
    assert count_solutions(puzzle, 2, 1000, puzzle.copy()) == fits


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0, 0, 0, 1, 2, 3, 4]), min_size=16, max_size=16))
def test_contradictions_are_found_as_by_brute_force(cells: list[int]) -> None:
    every, puzzle = all_4x4_grids_cached(), np.array(cells, dtype=np.int8)
    fits = ((puzzle == 0) | (every == puzzle)).all(axis=1).sum()
    assert count_solutions(puzzle, 2, 1000, puzzle.copy()) == fits


@pytest.mark.parametrize("box", [3, 4])
@pytest.mark.parametrize("turned", [False, True])
def test_a_digit_without_a_place_leaves_no_solution(box: int, turned: bool) -> None:
    side = box * box
    grid = np.zeros((side, side), dtype=np.int8)
    grid[0, -1] = 2
    for number in range(box - 1):  # the digit 1 in another row of each of the first boxes
        grid[1 + number, number * box] = 1
    for number in range(box - 1):  # and in the columns of the last one that are free in row 1
        grid[box + number * box, side - box + number] = 1
    puzzle = (grid.T if turned else grid).ravel().copy()
    assert count_solutions(puzzle, box, 2, puzzle.copy()) == 0
    task = Sudoku(box, digits="1-9" if box == 3 else "1-G")
    with pytest.raises(BadInput, match="this puzzle has no solution"):
        task.parse(task.problem_text(torch.from_numpy(puzzle).long()))
    dead = task.dead_ends(task.encode(np.zeros((1, side**2))), torch.from_numpy(puzzle)[None].long())
    assert dead.tolist() == [True]


@pytest.mark.parametrize("digits", ["1-9", (1, 9), [1, 9]])
def test_digits_are_named_by_a_text_or_a_range(digits: Any) -> None:
    assert Sudoku(digits=digits).digits == "1-9"
    with pytest.raises(BadInput, match="digits '1-8' is unknown"):
        Sudoku(digits=(1, 8))


def test_looking_for_lost_digits_changes_no_solution_and_saves_nodes() -> None:
    task, spent = Sudoku(3), [0, 0]
    for puzzle in task.generate(20, seed=4).tokens.numpy().astype(np.int8):
        puzzle[puzzle.nonzero()[0][:2]] = 0
        solutions = [np.zeros(81, np.int8), np.zeros(81, np.int8)]
        found = [_search(puzzle, 3, 3, 10**6, False, solution, bool(n)) for n, solution in enumerate(solutions)]
        assert found[0][0] == found[1][0] and np.array_equal(*solutions)
        spent = [spent[n] + found[n][1] for n in range(2)]
    assert spent[1] < 0.8 * spent[0]


_CACHE: list[np.ndarray] = []


def all_4x4_grids_cached() -> np.ndarray:
    if not _CACHE:
        _CACHE.append(all_4x4_grids())
    return _CACHE[0]


@pytest.mark.parametrize(("box", "count"), [(2, 40), (3, 20), (4, 2)])
def test_generated_puzzles_have_one_solution(box: int, count: int) -> None:
    task = Sudoku(box)
    instances = task.generate(count, seed=1, givens=(0 if box < 4 else 150))
    assert instances.x0 is not None
    assert task.check(instances, instances.x0).instance_correct.all()
    for puzzle in instances.tokens.numpy().astype(np.int8):
        assert count_solutions(puzzle, box, 2, puzzle.copy()) == 1


def test_minimal_puzzles_cannot_lose_a_clue() -> None:
    for puzzle in Sudoku(3).generate(5, seed=2).tokens.numpy().astype(np.int8):
        for cell in puzzle.nonzero()[0]:
            fewer = puzzle.copy()
            fewer[cell] = 0
            assert count_solutions(fewer, 3, 2, fewer.copy()) > 1


def test_the_number_of_givens_is_as_asked() -> None:
    task = Sudoku(3)
    assert (task.generate(20, 0, givens=33).tokens > 0).sum(dim=1).tolist() == [33] * 20
    some = (task.generate(40, 0, givens=(30, 35)).tokens > 0).sum(dim=1)
    assert some.min() >= 30
    assert some.max() <= 35
    assert len(some.unique()) > 3
    loose = Sudoku(2).generate(300, 0, givens=8, unique=False)
    assert (loose.tokens > 0).sum(dim=1).tolist() == [8] * 300
    several = [count_solutions(p, 2, 2, p.copy()) > 1 for p in loose.tokens.numpy().astype(np.int8)]
    assert np.mean(several) == pytest.approx(0.25, abs=0.08)  # 24.8 % in the published set


def test_a_puzzle_depends_on_its_seed_and_number_only() -> None:
    task = Sudoku(3)
    few, many = task.generate(3, seed=7), task.generate(8, seed=7)
    assert torch.equal(few.tokens, many.tokens[:3])
    assert not torch.equal(few.tokens, task.generate(3, seed=8).tokens)


def naive_grade_is_naked_singles(puzzle: np.ndarray) -> bool:
    grid = puzzle.reshape(9, 9).copy()
    moved = True
    while moved:
        moved = False
        for r, c in zip(*np.nonzero(grid == 0), strict=True):
            box = grid[r // 3 * 3 : r // 3 * 3 + 3, c // 3 * 3 : c // 3 * 3 + 3]
            left = set(range(1, 10)) - set(grid[r]) - set(grid[:, c]) - set(box.ravel())
            if len(left) == 1:
                grid[r, c] = left.pop()
                moved = True
    return bool((grid > 0).all())


def test_difficulty_labels_agree_with_an_independent_solver() -> None:
    puzzles, _, _, grades = generate_many(3, np.full(150, 32), np.arange(150), True)
    easy = [naive_grade_is_naked_singles(p) for p in puzzles]
    assert (grades == 0).tolist() == easy
    assert 10 < sum(easy) < 140


def test_published_grades() -> None:
    def digits(text: str) -> np.ndarray:
        return np.array([int(c) for c in text], np.int8)

    assert TECHNIQUES[grade(digits(EASY), 3)] == "naked single"
    hard = "083020090000800100029300008000098700070000060006740000300006980002005000010030540"
    assert TECHNIQUES[grade(digits(hard), 3)] == "search"


def test_difficulty_can_be_chosen() -> None:
    some = Sudoku(3).generate(5, 0, givens=30, difficulty="locked candidate")
    assert some.labels["difficulty"].tolist() == ["locked candidate"] * 5
    with pytest.raises(BadInput, match="use one of naked single"):
        Sudoku(3).generate(1, 0, difficulty="fiendish")


@pytest.mark.parametrize("layout", ["infill", "prefix"])
def test_augmented_puzzles_are_valid_and_different(layout: str) -> None:
    task = Sudoku(3, layout)
    instances = task.generate(10, 3, givens=30)
    assert instances.x0 is not None
    x0, tokens = task.augment(instances.x0, instances.tokens, np.random.default_rng(0))
    moved = type(instances)(tokens, instances.maskable if layout == "prefix" else tokens == 0, x0)
    assert task.check(moved, x0).instance_correct.all()
    assert not (x0 == instances.x0).all(dim=1).any()
    if layout == "infill":
        assert ((tokens > 0).sum(dim=1) == 30).all()
        assert (x0[tokens > 0] == tokens[tokens > 0]).all()


def test_the_papers_layout() -> None:
    task = Sudoku(3, "prefix")
    assert (task.length, task.vocab_size) == (164, 31)
    instances = task.generate(2, 0, givens=30)
    assert instances.x0 is not None
    assert instances.maskable.sum(dim=1).tolist() == [82, 82]  # every cell, and the end
    assert (instances.tokens[:, 82:] == task.mask_token_id).all()
    assert task.check(instances, instances.x0).instance_correct.all()
    assert len(task.format(instances.x0[0])) == 81


def test_the_checker_wants_the_givens_kept_and_every_house_right() -> None:
    task = Sudoku(3)
    puzzle = task.parse(EASY)
    assert puzzle.x0 is not None
    good = puzzle.x0.clone()
    assert task.format(good[0]) == SOLVED
    assert task.check(puzzle, good).instance_correct.tolist() == [True]
    relabelled = (good % 9) + 1  # a valid grid that keeps no given
    assert task.check(puzzle, relabelled).instance_correct.tolist() == [False]
    swapped = good.clone()
    swapped[0, [0, 2]] = swapped[0, [2, 0]]  # the row is fine, the columns are not
    verdict = task.check(puzzle, swapped)
    assert verdict.instance_correct.tolist() == [False]
    assert verdict.cell_accuracy.item() == pytest.approx(1 - 2 / (EASY.count("0")))
    masked = good.clone()
    masked[0, 0] = 0
    assert task.check(puzzle, masked).instance_correct.tolist() == [False]


def test_any_valid_completion_counts_when_there_are_several() -> None:
    task = Sudoku(2)
    puzzle = task.parse("1000000000000000")
    assert puzzle.x0 is None
    valid = [g for g in all_4x4_grids_cached() if g[0] == 1]
    tokens = torch.from_numpy(np.array(valid[:2]).astype(np.int64))
    assert task.check(puzzle[[0, 0]], tokens).instance_correct.tolist() == [True, True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (EASY[:-1], "has 81 characters; this one has 80"),
        (EASY[:-1] + "x", "character 'x' at row 9, column 9"),
        ("11" + "0" * 79, "digit 1 twice in row 1"),
        ("123456780000000009" + "0" * 63, "no solution"),
    ],
)
def test_bad_puzzles_say_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Sudoku(3).parse(text)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=100))
def test_nonsense_is_bad_input_and_nothing_else(text: str) -> None:
    try:
        Sudoku(2).parse(text)
    except BadInput:
        return


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="puzzlesoution,0123456789.\n", max_size=200))
def test_nonsense_files_are_bad_input_and_nothing_else(text: str) -> None:
    path = Path("/tmp") / "anyorder-fuzz.csv"
    path.write_text(text)
    try:
        Sudoku(2).load(path)
    except BadInput:
        return


def test_a_bad_line_of_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(f"puzzle,solution\n{EASY},{SOLVED}\n{EASY},{SOLVED[::-1]}\n")
    with pytest.raises(BadInput, match="line 3: the solution does not complete the puzzle"):
        Sudoku(3).load(path)
    assert len(Sudoku(3).load(path, limit=1)) == 1


def test_published_files_are_read_and_their_solutions_pass() -> None:
    ye = Sudoku(3).load(shared_file("sudoku/ye2024_test.csv"))
    assert len(ye) == 1000
    assert Sudoku(3).check(ye, ye.x0).instance_correct.all()
    assert {TECHNIQUES[grade(p, 3)] for p in ye.tokens.numpy().astype(np.int8)} == {"naked single"}
    hard = Sudoku(3).load(shared_file("sudoku/diabolical.csv"), limit=500)
    assert Sudoku(3).check(hard, hard.x0).instance_correct.all()
    assert hard.labels["rating"].min() > 5
    d1 = Sudoku(2).load(shared_file("sudoku4/d1_test.csv"))
    several = [count_solutions(p, 2, 2, p.copy()) > 1 for p in d1.tokens.numpy().astype(np.int8)]
    assert (len(d1), sum(several)) == (500, 124)


@pytest.mark.parametrize("name", ["sudoku9", "sudoku9-easy"])
def test_the_shipped_samplers_are_above_random_where_puzzles_have_many_solutions(name: str) -> None:
    """The pace by entropy alone solves almost none of these in 20 forward passes."""
    denoiser, task = load_denoiser(name), Sudoku(3)
    problems = task.generate(24, 11, givens=20, unique=False)
    solved = {}
    for order in ("random", "confidence", "policy+undo"):
        tokens = decode(denoiser, problems.tokens, Sampler.parse(order, steps=20)).tokens
        solved[order] = int(task.check(problems, tokens).instance_correct.sum())
    assert solved["policy+undo"] >= max(solved["random"], solved["confidence"]) + 4, solved


def test_halves_are_of_classes_up_to_symmetry() -> None:
    task = Sudoku(2)
    first, second = (task.generate(80, 3, givens=8, unique=False, half=half) for half in ("first", "second"))
    assert len(first) == len(second) == 80
    assert not set(classes_of(first.tokens.numpy())) & set(classes_of(second.tokens.numpy()))
    every = task.generate(400, 3, givens=8, unique=False)
    rows = {tuple(row) for row in every.tokens.tolist()}
    assert {tuple(row) for part in (first, second) for row in part.tokens.tolist()[:60]} <= rows  # the same puzzles, sorted
    assert first.x0 is not None
    _, moved = task.augment(first.x0, first.tokens, np.random.default_rng(0))
    assert not torch.equal(moved, first.tokens)
    assert (classes_of(moved.numpy()) == classes_of(first.tokens.numpy())).all()
    prefix = Sudoku(2, layout="prefix").generate(20, 3, givens=8, unique=False, half="first")
    written = prefix.tokens[:, :16] - YE_VOCABULARY.index("0")
    assert torch.equal(written, first.tokens[:20])


def test_there_are_1175_classes_with_8_clues(grids: np.ndarray) -> None:
    solved = grids[np.unique(classes_of(grids.astype(np.int64)), return_index=True)[1]]
    shown = np.array([[cell in clues for cell in range(16)] for clues in combinations(range(16), 8)])
    every = np.concatenate([np.where(shown, grid, 0) for grid in solved]).astype(np.int64)
    assert (len(solved), len(np.unique(classes_of(every)))) == (2, 1175)


def test_a_box_size_that_is_a_text_is_shown_as_one() -> None:
    with pytest.raises(BadInput, match=r"box size '2' is not supported: use 2 \(4x4\)"):
        Sudoku("2")  # type: ignore[arg-type]


def test_unsolvable_wishes_for_a_half_are_refused() -> None:
    with pytest.raises(BadInput, match="use one of first, second"):
        Sudoku(2).generate(2, 0, half="third")
    with pytest.raises(BadInput, match="with 0 givens is in the second half: choose other givens"):  # the empty grid
        Sudoku(2).generate(2, 0, givens=0, unique=False, half="second")
    with pytest.raises(BadInput, match="4x4 puzzles alone"):
        Sudoku(3).generate(2, 0, half="first")
