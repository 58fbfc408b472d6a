"""The solver, the generator, the symmetries and the checker of Zebra puzzles."""

import json
from functools import cache
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyorder.denoisers.transformer import Transformer
from anyorder.errors import BadInput
from anyorder.evaluation.comparison import evaluate
from anyorder.evaluation.tables import difficulty_rows
from anyorder.tasks.base import Instances
from anyorder.tasks.zebra import Zebra
from anyorder.tasks.zebra_rules import TECHNIQUES, count_solutions
from anyorder.tasks.zebra_text import PADDING, read_statement, write_clue
from anyorder.training.fit import fit_order
from anyorder.training.settings import PolicySettings

MEANING = [
    lambda a, b, c, last: a == b,
    lambda a, b, c, last: a != b,
    lambda a, b, c, last: a < b,
    lambda a, b, c, last: b - a == 1,
    lambda a, b, c, last: b - a in (-1, 1),
    lambda a, b, c, last: b < a < c or c < a < b,
    lambda a, b, c, last: a in (0, last),
]
ARITY = [2, 2, 2, 2, 2, 3, 1]

UNIQUE = "A1 = B1; B1 = C1; A2 = B2; B2 = C2; A1 << A2; A2 << A3"


@cache
def every_solution(houses: int, attributes: int) -> np.ndarray:
    """The house of every value in each of (houses!)^attributes solutions."""
    return np.array([sum(rows, ()) for rows in product(permutations(range(houses)), repeat=attributes)])


def is_true(clue: list[int], house: np.ndarray, houses: int) -> bool:
    a, b, c = (house[v] if v >= 0 else -1 for v in clue[1:])
    return MEANING[clue[0]](a, b, c, houses - 1)


def brute_force(clues: list[list[int]], houses: int, attributes: int) -> np.ndarray:
    every = every_solution(houses, attributes)
    for clue in clues:
        every = every[[is_true(clue, house, houses) for house in every]]
    return every


def solutions_of(task: Zebra, clues: np.ndarray, known: np.ndarray | None = None, limit: int = 2) -> int:
    domain = np.full(task.values, (1 << task.houses) - 1) if known is None else known
    return count_solutions(clues, domain, task.houses, limit, np.empty(task.values, np.int64))


def clues_of(task: Zebra, instances: Instances) -> list[list[list[int]]]:
    return [[c for c in puzzle if c[0] != PADDING] for puzzle in task._clues(instances.tokens).tolist()]


def domains_of(task: Zebra, tokens: torch.Tensor) -> np.ndarray:
    """The houses that the given cells of a puzzle (L,) leave to every value."""
    domain = np.full(task.values, (1 << task.houses) - 1)
    for cell, value in enumerate(task._grid(tokens[None]).flatten().tolist()):
        if value >= 0:
            domain[value] = 1 << cell % task.houses
    return domain


@pytest.fixture
def tiny() -> Transformer:
    """A denoiser of 3x3 puzzles."""
    task = Zebra(3, 3)
    torch.manual_seed(0)
    model = Transformer(task.vocab_size, 0, task.length, 16, 1, ["clue", "mention"], positions=True)
    model.set_relations(task.relations())
    return model.eval()


@st.composite
def arbitrary_clues(draw: st.DrawFn, houses: int, attributes: int) -> list[list[int]]:
    clues = []
    for kind in draw(st.lists(st.integers(0, 6), max_size=9)):
        pool = st.lists(st.integers(0, houses * attributes - 1), min_size=3, max_size=3, unique=True)
        if kind <= 1:
            pool = pool.filter(lambda v: v[0] // houses != v[1] // houses)
        clues.append([kind, *draw(pool)[: ARITY[kind]], -1, -1][:4])
    return clues


@settings(max_examples=150, deadline=None)
@given(arbitrary_clues(3, 3))
def test_counting_solutions_agrees_with_brute_force(clues: list[list[int]]) -> None:
    table = np.array(clues, dtype=np.int64).reshape(-1, 4)
    assert solutions_of(Zebra(3, 3), table, limit=1000) == len(brute_force(clues, 3, 3))


@settings(max_examples=10, deadline=None)
@given(arbitrary_clues(4, 3))
def test_counting_solutions_agrees_with_brute_force_on_a_longer_street(clues: list[list[int]]) -> None:
    found, house = brute_force(clues, 4, 3), np.full(12, -1)
    table = np.array(clues, dtype=np.int64).reshape(-1, 4)
    assert count_solutions(table, np.full(12, 15), 4, 10**6, house) == len(found)
    assert len(found) == 0 or (found == house).all(axis=1).any()


def test_all_arrangements_are_counted_where_nothing_is_known() -> None:
    assert solutions_of(Zebra(3, 3), np.empty((0, 4), np.int64), limit=1000) == 216
    assert solutions_of(Zebra(4, 3), np.empty((0, 4), np.int64), limit=10**6) == 13824
    assert solutions_of(Zebra(6, 6), np.empty((0, 4), np.int64), limit=2) == 2


@pytest.mark.parametrize(("houses", "attributes", "count"), [(3, 3, 40), (4, 3, 3)])
def test_small_puzzles_have_one_solution_by_brute_force(houses: int, attributes: int, count: int) -> None:
    task = Zebra(houses, attributes)
    instances = task.generate(count, seed=1)
    assert instances.x0 is not None
    for clues, x0 in zip(clues_of(task, instances), instances.x0, strict=True):
        (only,) = brute_force(clues, houses, attributes)
        assert only.reshape(attributes, -1).argsort(axis=1).ravel().tolist() == [
            value % houses for value in task._grid(x0[None]).flatten().tolist()
        ]


@pytest.mark.parametrize(("houses", "attributes", "givens"), [(3, 6, 0), (4, 4, 0), (4, 4, 5), (6, 3, 2), (5, 5, 0), (6, 6, 0)])
def test_puzzles_have_one_solution_and_cannot_lose_a_clue(houses: int, attributes: int, givens: int) -> None:
    task = Zebra(houses, attributes)
    instances = task.generate(8, seed=2, givens=givens)
    assert instances.x0 is not None
    assert task.check(instances, instances.x0).instance_correct.all()
    assert (~instances.maskable[:, task._grid_start :]).sum(dim=1).tolist() == [givens] * 8
    for clues, tokens in zip(clues_of(task, instances), instances.tokens, strict=True):
        domain, table = domains_of(task, tokens), np.array(clues)
        assert solutions_of(task, table, domain) == 1
        for left_out in range(len(clues)):
            assert solutions_of(task, np.delete(table, left_out, axis=0), domain) == 2


def test_every_type_of_clue_is_common() -> None:
    clues = clues_of(Zebra(), Zebra().generate(300, 0))
    kinds = np.bincount([clue[0] for puzzle in clues for clue in puzzle], minlength=7)
    assert (kinds / kinds.sum() > 0.05).all()


def test_a_puzzle_depends_on_its_seed_and_number_only() -> None:
    task = Zebra()
    few, many = task.generate(3, seed=7), task.generate(8, seed=7)
    assert torch.equal(few.tokens, many.tokens[:3])
    assert few.labels["difficulty"].tolist() == many.labels["difficulty"].tolist()[:3]
    assert not torch.equal(few.tokens, task.generate(3, seed=8).tokens)


def test_a_puzzle_with_every_cell_given_needs_no_clue() -> None:
    instances = Zebra().generate(2, 0, givens=16)
    assert instances.labels["clues"].tolist() == [0, 0]
    assert not instances.maskable.any()


def supported(clue: list[int], domains: list[set[int]], houses: int) -> bool:
    """Keep the houses of each operand that some true assignment of the clue has. Did any go?"""
    operands = [v for v in clue[1:] if v >= 0]
    tuples = [h for h in product(*(domains[v] for v in operands)) if MEANING[clue[0]](*h, *[-1] * (3 - len(h)), houses - 1)]
    before = [set(domains[v]) for v in operands]
    for k, v in enumerate(operands):
        domains[v] &= {h[k] for h in tuples}
    return before != [domains[v] for v in operands]


def slow_propagation(clues: list[list[int]], domains: list[set[int]], houses: int) -> bool:
    """The same rules as `propagate`, over sets and by enumeration. False on a contradiction."""
    moved = True
    while moved:
        moved = sum(supported(clue, domains, houses) for clue in clues) > 0
        for first in range(0, len(domains), houses):
            row = range(first, first + houses)
            for v, h in product(row, range(houses)):
                if h not in domains[v]:
                    continue
                elsewhere = [domains[w] for w in row if w != v]
                if {h} in elsewhere:
                    domains[v].discard(h)
                    moved = True
                elif len(domains[v]) > 1 and not any(h in other for other in elsewhere):
                    domains[v].intersection_update({h})
                    moved = True
            if set().union(*(domains[v] for v in row)) != set(range(houses)):
                return False
        if not all(domains):
            return False
    return True


def slow_grade(clues: list[list[int]], values: int, houses: int) -> int:
    domains = [set(range(houses)) for _ in range(values)]
    slow_propagation(clues, domains, houses)
    hardest, moved = 0, True
    while moved and any(len(d) > 1 for d in domains):
        hardest, moved = 1, False
        for v, h in product(range(values), range(houses)):
            trial = [{h} if w == v else set(d) for w, d in enumerate(domains)]
            if h in domains[v] and not slow_propagation(clues, trial, houses):
                domains[v].discard(h)
                moved = True
        slow_propagation(clues, domains, houses)
    return hardest if moved or hardest == 0 else 2


def test_difficulty_labels_agree_with_an_independent_solver() -> None:
    task = Zebra(4, 3)
    instances = task.generate(60, seed=3)
    grades = [slow_grade(clues, 12, 4) for clues in clues_of(task, instances)]
    assert [TECHNIQUES.index(label) for label in instances.labels["difficulty"]] == grades
    assert 10 < grades.count(0) < 50


def test_difficulty_can_be_chosen() -> None:
    some = Zebra(4, 4).generate(20, 0, difficulty="probing")
    assert some.labels["difficulty"].tolist() == ["probing"] * 20
    with pytest.raises(BadInput, match="use one of propagation, probing, search"):
        Zebra().generate(1, 0, difficulty="fiendish")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"givens": 9, "difficulty": "search"}, "givens and at most 10 clues that need 'search' are too rare"),
        ({"givens": 10}, "from 0 to 9"),
        ({"givens": True}, "givens True must be a number from 0 to 9"),
        ({"givens": (2, 3)}, "from 0 to 9"),
    ],
)
def test_what_the_generator_cannot_make_is_said(options: dict, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Zebra(3, 3).generate(1, 0, **options)


@pytest.mark.parametrize(("houses", "attributes", "givens"), [(3, 4, 0), (4, 4, 3), (5, 4, 0)])
def test_augmented_puzzles_are_the_same_puzzles_in_disguise(houses: int, attributes: int, givens: int) -> None:
    task = Zebra(houses, attributes)
    instances = task.generate(30, 3, givens=givens)
    assert instances.x0 is not None
    x0, tokens = task.augment(instances.x0, instances.tokens, np.random.default_rng(0))
    moved = Instances(tokens, tokens == task.mask_token_id, x0)
    assert task.check(moved, x0).instance_correct.all()
    assert not (x0 == instances.x0).all(dim=1).any()
    assert (moved.maskable.sum(dim=1) == instances.maskable.sum(dim=1)).all()
    before, after = clues_of(task, instances), clues_of(task, moved)
    for old, new, row in zip(before, after, tokens, strict=True):
        assert sorted(c[0] for c in old) == sorted(c[0] for c in new)
        assert solutions_of(task, np.array(new), domains_of(task, row)) == 1
        for clue in new:  # still in canonical form
            assert list(read_statement(write_clue(clue, houses), houses, attributes)) == clue
    reread = [task.parse(statements(task, row)) for row in tokens]
    assert [puzzle.labels["difficulty"][0] for puzzle in reread] == instances.labels["difficulty"].tolist()
    assert torch.equal(torch.cat([puzzle.tokens for puzzle in reread]), tokens)  # so slots left over stay at the end


def statements(task: Zebra, tokens: torch.Tensor) -> str:
    clues = [write_clue(clue, task.houses) for clue in clues_of(task, Instances(tokens[None], tokens[None] == 0))[0]]
    grid = task._grid(tokens[None])[0].tolist()
    known = [
        f"{chr(65 + v // task.houses)}{v % task.houses + 1} at {h + 1}" for row in grid for h, v in enumerate(row) if v >= 0
    ]
    return "; ".join(clues + known)


def test_augmentation_mirrors_half_of_the_streets_and_reaches_every_arrangement() -> None:
    task = Zebra(3, 3)
    puzzle = task.parse(UNIQUE)[[0] * 2000]
    assert puzzle.x0 is not None
    x0, tokens = task.augment(puzzle.x0, puzzle.tokens, np.random.default_rng(1))
    again = task.augment(puzzle.x0, puzzle.tokens, np.random.default_rng(1))
    assert torch.equal(x0, again[0]) and torch.equal(tokens, again[1])
    assert len(x0[:, task._grid_start :].unique(dim=0)) == 216
    assert len(tokens[:, :4].unique(dim=0)) > 20


def test_a_mirrored_street_reverses_left_and_right() -> None:
    task = Zebra(3, 3)
    puzzle = task.parse(UNIQUE)[[0] * 50]
    assert puzzle.x0 is not None
    x0, tokens = task.augment(puzzle.x0, puzzle.tokens, np.random.default_rng(2))
    orders = set()
    for clues, grid in zip(clues_of(task, Instances(tokens, tokens == 0)), task._grid(x0), strict=True):
        (first, second) = [(a, b) for kind, a, b, _ in clues if kind == 3]
        chain = [*first, second[1]] if first[1] == second[0] else [*second, first[1]]
        assert chain in grid.tolist()
        orders.add(any(chain[0] in (a, b) for kind, a, b, _ in clues if kind == 0))
    assert orders == {True, False}  # A3, of which no equality speaks, is now at one end and now at the other


def encoded(task: Zebra, clues: list[list[int]], houses: np.ndarray) -> Instances:
    padded = np.array([*clues, *[[PADDING, -1, -1, -1]] * (task.slots - len(clues))])
    return task.encode(np.repeat(padded[None], len(houses), axis=0), houses, np.zeros((len(houses), task.values), bool))


@pytest.mark.parametrize("kind", range(7))
def test_the_checker_knows_every_type_of_clue(kind: int) -> None:
    task, every = Zebra(4, 3), every_solution(4, 3)[::7]
    clue = [kind, *[1, 6, 11][: ARITY[kind]], -1, -1][:4]
    instances = encoded(task, [clue], every)
    assert instances.x0 is not None
    expected = [is_true(clue, house, 4) for house in every]
    assert task.check(instances, instances.x0).instance_correct.tolist() == expected
    assert 0 < sum(expected) < len(every)


@settings(max_examples=40, deadline=None)
@given(arbitrary_clues(3, 3))
def test_the_checker_agrees_with_brute_force_on_every_arrangement(clues: list[list[int]]) -> None:
    task, every = Zebra(3, 3), every_solution(3, 3)
    instances = encoded(task, clues, every)
    assert instances.x0 is not None
    good = {tuple(house) for house in brute_force(clues, 3, 3)}
    assert task.check(instances, instances.x0).instance_correct.tolist() == [tuple(house) in good for house in every]


def test_the_checker_wants_permutations_and_the_problem_unchanged() -> None:
    task = Zebra(3, 3)
    puzzle = task.parse(UNIQUE + "; C3 at 3")
    assert puzzle.x0 is not None
    good, start = puzzle.x0, task._grid_start
    assert task.format(good[0]) == "A1 B1 C1 | A2 B2 C2 | A3 B3 C3"
    assert task.check(puzzle, good).instance_correct.item()
    verdicts = {}
    for what, place, token in (
        ("a value twice", start + 5, good[0, start + 4]),
        ("a value of another attribute", start, good[0, start + 3]),
        ("the mask", start + 1, 0),
        ("a clue token in the grid", start + 1, task.vocab_size - 1),
        ("another clue", 1, good[0, 1] + 1),
        ("another type", 0, good[0, 0] + 1),
    ):
        wrong = good.clone()
        wrong[0, place] = token
        assert not task.check(puzzle, wrong).instance_correct.item(), what
        verdicts[what] = task.check(puzzle, wrong).cell_accuracy.item()
    assert verdicts["a value twice"] == verdicts["the mask"] == pytest.approx(7 / 8)  # 9 cells, one of them given
    free = encoded(task, [], every_solution(3, 3)[:6])
    known = Instances(free.tokens.clone(), free.maskable.clone(), free.x0)
    assert free.x0 is not None
    known.tokens[:, -1], known.maskable[:, -1] = free.x0[0, -1], False
    answers = free.x0
    kept = (answers[:, -1] == answers[0, -1]).tolist()
    assert task.check(known, answers).instance_correct.tolist() == kept
    assert 0 < sum(kept) < 6


def test_cell_accuracy_without_a_solution_is_the_share_of_cells_without_a_clash() -> None:
    task = Zebra(3, 3)
    puzzle = task.parse(UNIQUE)
    assert puzzle.x0 is not None
    unknown = Instances(puzzle.tokens, puzzle.maskable)
    assert task.check(unknown, puzzle.x0).cell_accuracy.item() == 1
    clash = puzzle.x0.clone()
    clash[0, -1] = clash[0, -2]
    assert task.check(unknown, clash).cell_accuracy.item() == pytest.approx(7 / 9)


def test_relations_of_a_small_puzzle() -> None:
    task = Zebra(3, 3, slots=6)
    puzzle = task.parse(UNIQUE)
    found = {name: relation(puzzle.tokens)[0] for name, relation in task.relations().items()}
    for name, related in found.items():
        assert torch.equal(related, related.T), name
    grid = 24
    assert found["clue"][5].nonzero().flatten().tolist() == [4, 5, 6, 7]
    assert found["clue"][grid].nonzero().flatten().tolist() == [grid]
    assert found["house"][grid + 1].nonzero().flatten().tolist() == [grid + 1, grid + 4, grid + 7]
    assert found["attribute"][grid + 4].nonzero().flatten().tolist() == [grid + 3, grid + 4, grid + 5]
    b_mentions = [2, 5, 10, 13]  # A1 = B1; B1 = C1; A2 = B2; B2 = C2
    assert found["mention"][grid + 3].nonzero().flatten().tolist() == b_mentions
    assert found["mention"][2].nonzero().flatten().tolist() == [grid + 3, grid + 4, grid + 5]
    assert found["value"][2].nonzero().flatten().tolist() == [2, 5]  # no cell holds B1 yet
    assert not found["value"][3].any()  # "none" is no value
    assert puzzle.x0 is not None
    solved = task.relations()["value"](puzzle.x0)[0]
    assert solved[2].nonzero().flatten().tolist() == [2, 5, grid + 3]


def test_an_order_is_fitted_to_puzzles_of_any_size(tmp_path: Path, tiny: Transformer) -> None:
    task = Zebra(3, 3)
    small = PolicySettings(width=16, layers=1, heads=["clue", "mention"])
    fit_order(tiny, task, task.generate(20, 0), tmp_path, steps=1, batch_size=4, policy=small)
    recipe = json.loads((tmp_path / "recipe.json").read_text(encoding="utf-8"))
    assert recipe["task"] == {"name": "zebra", "options": {"houses": 3, "attributes": 3, "slots": 10}}


def test_reports_by_difficulty_go_from_easy_to_hard(tiny: Transformer) -> None:
    report = evaluate(tiny, Zebra(3, 3), Zebra(3, 3).generate(60, 0), ["confidence"], [3])
    header, _ = difficulty_rows(report.results)
    assert [name.split(" (")[0] for name in header] == ["order", "propagation", "probing"]
