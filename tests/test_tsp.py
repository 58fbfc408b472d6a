"""The exact tours, the checker and the file format of the traveling salesman problem."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyorder.errors import BadInput
from anyorder.tasks.base import Instances
from anyorder.tasks.tsp import Tsp
from anyorder.tasks.tsp_rules import random_cities, shortest_tours

SQUARE = "0,0 3,3 0,3 3,0"


def tour_length(points: np.ndarray, tour: tuple[int, ...]) -> float:
    visited = points[list(tour)].astype(float)
    return float(np.linalg.norm(visited - np.roll(visited, -1, axis=0), axis=1).sum())


def brute_force(points: np.ndarray) -> tuple[list[tuple[int, ...]], float]:
    """All optimal tours from city 0, in both directions and dictionary order, and their length."""
    tours = [(0, *rest) for rest in permutations(range(1, len(points)))]
    lengths = np.array([tour_length(points, tour) for tour in tours])
    return [tour for tour, short in zip(tours, lengths <= lengths.min() + 1e-9, strict=True) if short], float(lengths.min())


def with_tour(task: Tsp, instances: Instances, tour: list[int]) -> torch.Tensor:
    tokens = instances.tokens.clone()
    tokens[0, task.cities :] = torch.tensor(tour) + 1 + task.grid**2
    return tokens


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 7), st.integers(4, 16), st.integers(0, 10**6))
def test_tours_agree_with_brute_force(cities: int, grid: int, seed: int) -> None:
    points = random_cities(cities, grid, np.array([seed]))
    tours, lengths, greedy = shortest_tours(points)
    best, length = brute_force(points[0])
    assert tuple(tours[0].tolist()) == best[0]
    assert tours[0, 1] < tours[0, -1]
    assert lengths[0] == pytest.approx(length, abs=1e-9)
    tour, left = [0], set(range(1, cities))
    while left:
        tour.append(min(left, key=lambda c: (((points[0, c] - points[0, tour[-1]]) ** 2).sum(), c)))
        left.remove(tour[-1])
    assert greedy[0] == (tuple(tour) in best)


@settings(max_examples=30, deadline=None)
@given(st.integers(4, 9), st.integers(4, 20), st.integers(0, 10**6))
def test_the_stored_tour_is_right_and_stays_so(cities: int, grid: int, seed: int) -> None:
    task = Tsp(cities, grid)
    instances = task.generate(5, seed)
    assert instances.x0 is not None
    assert task.check(instances, instances.x0).instance_correct.all()
    x0, tokens = task.augment(instances.x0, instances.tokens, np.random.default_rng(seed))
    augmented = Instances(tokens, tokens == task.mask_token_id, x0)
    assert torch.equal(augmented.maskable, instances.maskable)
    verdict = task.check(augmented, x0)
    assert verdict.instance_correct.all() and (verdict.cell_accuracy == 1).all()
    tours = task._tours(x0)
    assert (tours[:, 0] == 0).all() and (tours[:, 1] < tours[:, -1]).all()
    assert ((task._points(x0) >= 0) & (task._points(x0) < grid)).all()


def test_augmentation_reaches_the_eight_symmetries() -> None:
    task = Tsp(4, 8)
    instances = task.parse("0,0 1,0 5,0 0,2")
    assert instances.x0 is not None
    x0, _ = task.augment(instances.x0.repeat(3000, 1), instances.tokens.repeat(3000, 1), np.random.default_rng(0))
    shapes = {frozenset(map(tuple, points)) for points in task._points(x0).tolist()}
    assert len(shapes) == 8
    assert len({tuple(row) for row in x0.tolist()}) == 8 * 24


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 8), st.integers(0, 8))
def test_a_problem_depends_on_the_seed_and_its_number_only(seed: int, few: int, more: int) -> None:
    task = Tsp(5)
    assert torch.equal(task.generate(few, seed).tokens, task.generate(few + more, seed).tokens[:few])


def test_cities_are_different_and_spread_over_the_grid() -> None:
    points = random_cities(12, 4, np.arange(200))
    assert all(len({tuple(p) for p in problem}) == 12 for problem in points.tolist())
    counts = np.bincount((points[:, :, 0] * 4 + points[:, :, 1]).ravel(), minlength=16)
    assert counts.tolist() == pytest.approx([150] * 16, abs=40)


@pytest.mark.parametrize(
    ("tour", "right", "gap"),
    [
        ([0, 2, 1, 3], True, 0.0),
        ([0, 3, 1, 2], True, 0.0),  # the other direction
        ([0, 1, 2, 3], False, (6 + 2 * 18**0.5) / 12 - 1),
        ([0, 1, 1, 3], False, np.inf),  # a city twice
        ([3, 1, 2, 0], False, np.inf),  # does not start at city 0
        ([0, 2, 1, -20], False, np.inf),  # a coordinate in place of a city
        ([0, 2, 1, -17], False, np.inf),  # a mask
    ],
)
def test_only_shortest_tours_of_all_cities_are_right(tour: list[int], right: bool, gap: float) -> None:
    task = Tsp(4, 16)
    instances = task.parse(SQUARE)
    tokens = with_tour(task, instances, [max(c, -17) for c in tour])
    assert task.check(instances, tokens).instance_correct.item() == right
    assert task.tour_gap(instances, tokens).item() == pytest.approx(gap, abs=1e-9)


def test_every_tour_is_judged_as_brute_force_judges_it() -> None:
    task = Tsp(6, 4)
    instances = task.generate(1, seed=3)
    best, length = brute_force(task._points(instances.tokens)[0].numpy())
    tours = [(0, *rest) for rest in permutations(range(1, 6))]
    every = torch.cat([with_tour(task, instances, list(tour)) for tour in tours])
    repeated = instances[torch.zeros(len(tours), dtype=torch.int64)]
    assert task.check(repeated, every).instance_correct.tolist() == [tour in best for tour in tours]
    lengths = [tour_length(task._points(instances.tokens)[0].numpy(), tour) for tour in tours]
    assert task.tour_gap(repeated, every).tolist() == pytest.approx([x / length - 1 for x in lengths], abs=1e-9)


def test_ties_count_as_right_whichever_tour_is_stored() -> None:
    task = Tsp(5, 8)
    instances = task.parse("0,0 2,0 0,2 2,2 1,1")  # the centre may stand between any two neighbors
    best, _ = brute_force(task._points(instances.tokens)[0].numpy())
    assert len(best) == 8
    for tour in best:
        assert task.check(instances, with_tour(task, instances, list(tour))).instance_correct.item()


def test_changed_cities_are_wrong_and_cell_accuracy_takes_the_better_direction() -> None:
    task = Tsp(4, 16)
    instances = task.parse(SQUARE)
    assert instances.x0 is not None
    changed = instances.x0.clone()
    changed[0, 0] += 1
    assert not task.check(instances, changed).instance_correct.item()
    assert task.tour_gap(instances, changed).item() == np.inf
    accuracy = [task.check(instances, with_tour(task, instances, t)).cell_accuracy.item() for t in ([0, 3, 1, 2], [0, 3, 2, 1])]
    assert accuracy == pytest.approx([1, 1 / 3])
    unsolved = Instances(instances.tokens, instances.maskable)
    assert task.check(unsolved, instances.x0).cell_accuracy.item() == 1
    assert task.check(unsolved, changed).cell_accuracy.item() == 0


def test_relations_of_a_small_problem() -> None:
    task = Tsp(4, 16)
    instances = task.parse(SQUARE)
    assert instances.x0 is not None and task.format(instances.x0[0]) == "0,2,1,3"
    solved, open_ = ({n: r(t)[0] for n, r in task.relations().items()} for t in (instances.x0, instances.tokens))
    assert solved["city"][2].nonzero()[:, 0].tolist() == [2, 5]  # where city 2 is, and its position in the tour
    assert open_["city"][2].nonzero()[:, 0].tolist() == [2]
    assert open_["city"][4].nonzero()[:, 0].tolist() == [0, 4] and not open_["city"][5].any()
    assert solved["part"][1].nonzero()[:, 0].tolist() == [0, 1, 2, 3]
    assert solved["part"][4].nonzero()[:, 0].tolist() == [4, 5, 6, 7]
    assert solved["next"][4].nonzero()[:, 0].tolist() == [5, 7] and not solved["next"][0].any()


def test_the_label_says_whether_the_nearest_neighbor_is_enough() -> None:
    labels = Tsp(8).generate(300, seed=0).labels["difficulty"]
    assert set(labels.tolist()) == {"greedy", "search"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,0 1,1 2,2", "has 3 cities; the task is set up for 4"),
        ("0,0 1,1 2,2 3", "city 3 is '3', not x,y"),
        ("0,0 1,1 2,2 3,16", "numbers from 0 to 15"),
        ("0,0 1,1 2,2 3,-1", "city 3"),
        ("0,0 1,1 2,2 1,1", "same place"),
        ("", "has 0 cities"),
    ],
)
def test_bad_problems_say_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Tsp(4).parse(text)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="0123456789, -.x²", max_size=25))
def test_nonsense_is_bad_input_and_nothing_else(text: str) -> None:
    try:
        Tsp(4).parse(text)
    except BadInput:
        return


def test_files_hold_one_problem_per_line(tmp_path: Path) -> None:
    path = tmp_path / "cities.txt"
    path.write_text(f"{SQUARE}\n\n1,1 2,2 3,3 4,5\n")
    task = Tsp(4)
    assert Tsp.options_of(path.open().readline, None) == Tsp.options_of(None, SQUARE) == {"cities": 4}
    assert Tsp.options_of(None, "1,1") == {}
    instances = task.load(path)
    assert len(instances) == 2 and len(task.load(path, limit=1)) == 1
    assert task.check(instances, instances.x0).instance_correct.all()
    assert task.format(instances.tokens[0]) == "0,.,.,."
    path.write_text(f"{SQUARE}\n1,1\n")
    with pytest.raises(BadInput, match="line 2: this problem has 1 cities"):
        task.load(path)
    path.write_text("")
    with pytest.raises(BadInput, match="holds no problems"):
        task.load(path)


def test_sizes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(BadInput, match="use 4 to 12"):
        Tsp(3)
    with pytest.raises(BadInput, match="use 4 to 64"):
        Tsp(4, 3)
