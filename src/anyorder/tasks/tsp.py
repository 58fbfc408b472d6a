"""The traveling salesman problem on a grid of integers: generator, exact tours, encoding, file format, checker.

Layout: the place of city 0, of city 1, ..., then the n cities in the order of the tour, which starts at city 0 (given). Token
1 + grid * x + y is the place (x, y), 1 + grid^2 + c is city c, 0 is the mask. L = 2n, V = 1 + grid^2 + n. One token per place
lets attention learn distances at once; with x and y apart a small denoiser learned next to nothing. The stored tour goes round
in the direction in which the second city is less than the last.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from anyorder.errors import BadInput
from anyorder.registry import TASKS
from anyorder.relations import Relation, same
from anyorder.tasks.base import CheckResult, Instances, Task, cell_accuracy
from anyorder.tasks.generation import per_instance_seeds
from anyorder.tasks.problem_files import Unreadable, opening, read_lines


@TASKS.register("tsp")
class Tsp(Task):
    """Shortest closed tours through cities on a grid.

    Args:
        cities: n, 4 to 12; tours are exact, at a cost of n^2 2^n.
        grid: coordinates run from 0 to grid - 1.
    """

    difficulty_order: ClassVar[tuple[str, ...]] = ("greedy", "search")

    def __init__(self, cities: int = 8, grid: int = 16) -> None:
        if not isinstance(cities, int) or not 4 <= cities <= 12:
            raise BadInput(f"a tour of {cities!r} cities is not supported: use 4 to 12")
        if not isinstance(grid, int) or not 4 <= grid <= 64:
            raise BadInput(f"a grid of side {grid!r} is not supported: use 4 to 64")
        self.cities = cities
        self.grid = grid
        self.vocab_size = 1 + grid**2 + cities
        self.mask_token_id = 0
        self.length = 2 * cities

    @staticmethod
    def options_of(first_lines: Callable[[], str] | None, text: str | None) -> dict[str, Any]:
        """How many cities the first line of a file, or a problem typed as text, has."""
        cities = len((opening(first_lines) if first_lines else text or "").split())
        return {"cities": cities} if 4 <= cities <= 12 else {}

    def relations(self) -> Mapping[str, Relation]:
        """city: where a city is, and its position in the tour. part: all cities, all positions of the tour. next: neighboring
        positions of the tour, which is closed."""
        n = self.cities
        at = torch.arange(self.length)
        is_tour = at >= n
        apart = (at[:, None] - at[None, :]).abs()
        city_of_token = torch.full((self.vocab_size,), -1)
        city_of_token[1 + self.grid**2 :] = torch.arange(n)
        always = torch.ones(self.length, self.length, dtype=torch.bool)
        return {
            "city": Relation(always, torch.where(is_tour, -1, at), city_of_token),
            "part": same(is_tour.long()),
            "next": Relation(is_tour[:, None] & is_tour[None, :] & ((apart == 1) | (apart == n - 1))),
        }

    # ---- encoding -------------------------------------------------------------------------------------------------

    def encode(self, points: np.ndarray) -> Instances:
        """Instances from points (N, n, 2), with optimal tours.

        The label `difficulty` is "greedy" if going to the nearest city is optimal, and "search" otherwise.
        """
        from anyorder.tasks.tsp_rules import shortest_tours

        tours, _, greedy = shortest_tours(points)
        out = self._encode(torch.from_numpy(points), torch.from_numpy(tours))
        return Instances(out.tokens, out.maskable, out.x0, {"difficulty": np.where(greedy, "greedy", "search")})

    def _encode(self, points: Tensor, tours: Tensor) -> Instances:
        places = 1 + self.grid * points[..., 0] + points[..., 1]
        x0 = torch.cat([places, tours + 1 + self.grid**2], dim=1)
        maskable = (torch.arange(self.length) > self.cities).expand_as(x0).clone()
        return Instances(torch.where(maskable, self.mask_token_id, x0), maskable, x0)

    def _points(self, tokens: Tensor) -> Tensor:
        """Coordinates (N, n, 2)."""
        places = tokens[:, : self.cities] - 1
        return torch.stack([places // self.grid, places % self.grid], dim=-1)

    def _tours(self, tokens: Tensor) -> Tensor:
        """Cities (N, n) in the order of the tour; less than 0 for what is no city."""
        return tokens[:, self.cities :] - 1 - self.grid**2

    # ---- generation -----------------------------------------------------------------------------------------------

    def generate(self, count: int, seed: int) -> Instances:
        """Different points drawn uniformly from the grid. Problem i depends on seed and i only."""
        from anyorder.tasks.tsp_rules import random_cities

        return self.encode(random_cities(self.cities, self.grid, per_instance_seeds(seed, count)))

    def augment(self, x0: Tensor, tokens: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Turn and mirror the square (8 symmetries), and relabel the cities, per row.

        The tour is turned round so that it starts at the new city 0, in the canonical direction. Of several optimal tours
        the stored one is kept, whether or not it is still the first in dictionary order.
        """
        batch, n = x0.shape[0], self.cities
        points, tours = self._points(x0), self._tours(x0)
        mirrored = torch.from_numpy(rng.random((batch, 1, 2)) < 0.5)
        transposed = torch.from_numpy(rng.random((batch, 1, 1)) < 0.5)
        points = torch.where(mirrored, self.grid - 1 - points, points)
        points = torch.where(transposed, points.flip(2), points)
        relabel = torch.from_numpy(rng.random((batch, n)).argsort(axis=1))
        moved = torch.empty_like(points).scatter_(1, relabel[:, :, None].expand(-1, -1, 2), points)
        tours = relabel.gather(1, tours)
        start = (tours == 0).int().argmax(dim=1, keepdim=True)
        tours = tours.gather(1, (start + torch.arange(n)) % n)
        out = self._encode(moved, torch.where(tours[:, 1:2] < tours[:, -1:], tours, _reversed(tours)))
        assert out.x0 is not None
        return out.x0, out.tokens

    # ---- reading and writing --------------------------------------------------------------------------------------

    def load(self, path: str | Path, limit: int | None = None, unreadable: Unreadable | None = None) -> Instances:
        """One problem per line, `x,y` of each city, separated by spaces; tours are computed here."""
        return self.encode(np.stack(read_lines(path, limit, self._cities, "problems", unreadable)))

    def parse(self, text: str) -> Instances:
        """One problem, e.g. `0,0 3,12 15,4 7,7` for four cities."""
        return self.encode(self._cities(text)[None])

    def problem_text(self, tokens: Tensor) -> str:
        """The cities of a problem (L,), e.g. `0,0 3,12 15,4 7,7`."""
        return " ".join(f"{x},{y}" for x, y in self._points(tokens[None])[0].tolist())

    def _cities(self, text: str) -> np.ndarray:
        pairs = [pair.split(",") for pair in text.split()]
        for number, pair in enumerate(pairs):
            if len(pair) != 2 or not all(v.isascii() and v.isdigit() and len(v) <= 4 and int(v) < self.grid for v in pair):
                raise BadInput(f"city {number} is {','.join(pair)!r}, not x,y with whole numbers from 0 to {self.grid - 1}")
        if len(pairs) != self.cities:
            raise BadInput(f"this problem has {len(pairs)} cities; the task is set up for {self.cities}")
        points = np.array([[int(v) for v in pair] for pair in pairs], dtype=np.int64)
        if len({tuple(point) for point in points.tolist()}) < self.cities:
            raise BadInput("two cities have the same place")
        return points

    def format(self, tokens: Tensor) -> str:
        """The tour as `0,3,1,2`; '.' for what is still masked and '?' for what is no city."""
        masked = (tokens[self.cities :] == self.mask_token_id).tolist()
        tour = self._tours(tokens[None])[0].tolist()
        return ",".join(str(c) if c >= 0 else "." if hidden else "?" for c, hidden in zip(tour, masked, strict=True))

    # ---- checking -------------------------------------------------------------------------------------------------

    def tour_gap(self, instances: Instances, tokens: Tensor) -> Tensor:
        """How much longer than the shortest the tours of completed sequences (N, L) are, relatively: float64 (N,).

        0 for an optimal tour, infinity for what is not a tour of all cities from city 0, or of other cities than given.
        """
        from anyorder.tasks.tsp_rules import TOLERANCE, shortest_tours

        points, tours = self._points(instances.tokens), self._tours(tokens)
        legal = (tours.sort(dim=1).values == torch.arange(self.cities)).all(dim=1)
        kept = ((instances.tokens == tokens) | instances.maskable).all(dim=1)
        visited = points.double().gather(1, tours.clamp(min=0)[:, :, None].expand(-1, -1, 2))
        length = (visited - visited.roll(-1, dims=1)).norm(dim=2).sum(dim=1)
        shortest = torch.from_numpy(shortest_tours(points.numpy())[1])
        excess = length - shortest
        gap = torch.where(excess <= TOLERANCE, 0.0, excess / shortest)
        return torch.where(legal & kept, gap, torch.inf)

    def check(self, instances: Instances, tokens: Tensor) -> CheckResult:
        """By the rules: the cities are unchanged, and the tour visits each once from city 0 and is as short as can be.

        Any optimal tour is right, in either direction. Cell accuracy is the share of generated places equal to the stored
        tour, in the direction in which more are; where none is known it is 1 for a right instance and 0 for a wrong one.
        """
        correct = self.tour_gap(instances, tokens) == 0
        if instances.x0 is None:
            return CheckResult(correct, cell_accuracy(instances, correct[:, None].expand_as(tokens)))
        tours = tokens[:, self.cities :]
        back = torch.cat([tokens[:, : self.cities], _reversed(tours)], dim=1)
        forth, turned = (cell_accuracy(instances, way == instances.x0) for way in (tokens, back))
        return CheckResult(correct, torch.maximum(forth, turned))


def _reversed(tours: Tensor) -> Tensor:
    """The same tours (N, n) the other way round, from the same city."""
    return torch.cat([tours[:, :1], tours[:, 1:].flip(1)], dim=1)
