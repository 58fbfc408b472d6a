"""Random 3-SAT, compiled by numba. All assignments are held as a truth table of 64-bit words, so every model is found."""

import numpy as np

from anyorder.compiled import compiled


@compiled
def _draw_formula(variables: int, clauses: int, formula: np.ndarray) -> None:
    """m distinct clauses of 3 distinct variables in increasing order, signs at random (uses numba's random state)."""
    made = 0
    while made < clauses:
        a = np.random.randint(variables)
        b = np.random.randint(variables)
        c = np.random.randint(variables)
        if len({a, b, c}) < 3:
            continue
        low, high = min(a, b, c), max(a, b, c)
        formula[made, 0] = low + 1
        formula[made, 1] = a + b + c - low - high + 1
        formula[made, 2] = high + 1
        for k in range(3):
            if np.random.randint(2):
                formula[made, k] = -formula[made, k]
        fresh = True
        for other in range(made):
            if (formula[other] == formula[made]).all():
                fresh = False
        if fresh:
            made += 1


@compiled
def random_formula(variables: int, clauses: int, seed: int) -> np.ndarray:
    """Signed literals (m, 3) of a random formula, satisfiable or not."""
    np.random.seed(seed % 2**32)
    formula = np.zeros((clauses, 3), np.int64)
    _draw_formula(variables, clauses, formula)
    return formula


@compiled
def _truth_tables(variables: int) -> np.ndarray:
    """Row v: bit a of the table is the value of variable v in assignment a. uint64 (n, max(1, 2^n / 64))."""
    words = max(1, (1 << variables) >> 6)
    tables = np.zeros((variables, words), np.uint64)
    for v in range(variables):
        for a in range(1 << variables):
            if (a >> v) & 1:
                tables[v, a >> 6] |= np.uint64(1) << np.uint64(a & 63)
    return tables


@compiled
def _models(formula: np.ndarray, tables: np.ndarray, alive: np.ndarray) -> None:
    """Leave in `alive` the assignments that satisfy every clause."""
    for clause in range(formula.shape[0]):
        for word in range(tables.shape[1]):
            true = np.uint64(0)
            for k in range(3):
                literal = formula[clause, k]
                row = tables[abs(literal) - 1, word]
                true |= row if literal > 0 else ~row
            alive[word] &= true


@compiled
def count_models(formula: np.ndarray, variables: int) -> int:
    """How many of the 2^n assignments satisfy the formula (m, 3)."""
    return _alive(formula, _truth_tables(variables), variables).size


@compiled
def _alive(formula: np.ndarray, tables: np.ndarray, variables: int) -> np.ndarray:
    alive = np.full(tables.shape[1], ~np.uint64(0))
    _models(formula, tables, alive)
    found = [0 for _ in range(0)]
    for word in range(alive.size):
        if alive[word]:
            for bit in range(64):
                a = word * 64 + bit
                if a < (1 << variables) and (alive[word] >> np.uint64(bit)) & np.uint64(1):
                    found.append(a)
    return np.array(found, dtype=np.int64)


@compiled
def generate_many(variables: int, clauses: int, seeds: np.ndarray, attempts: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Satisfiable formulas (N, m, 3), one of each one's models drawn uniformly, bool (N, n), and the number of models (N,), 0
    where none of so many attempts gave a formula with a model."""
    count = seeds.size
    formulas = np.zeros((count, clauses, 3), np.int64)
    assignments = np.zeros((count, variables), np.bool_)
    models = np.zeros(count, np.int64)
    tables = _truth_tables(variables)
    for i in range(count):
        np.random.seed(seeds[i])
        found = np.zeros(0, np.int64)
        for _ in range(attempts):
            _draw_formula(variables, clauses, formulas[i])
            found = _alive(formulas[i], tables, variables)
            models[i] = found.size
            if models[i]:
                break
        if models[i] == 0:
            break
        chosen = found[np.random.randint(found.size)]
        for v in range(variables):
            assignments[i, v] = (chosen >> v) & 1
    return formulas, assignments, models


@compiled
def nearest_models(formulas: np.ndarray, wished: np.ndarray, weights: np.ndarray, models: np.ndarray) -> None:
    """Replace each model (N, n), truth values, by the one whose differences from `wished` bool (N, n) weigh least."""
    variables = wished.shape[1]
    tables = _truth_tables(variables)
    for i in range(len(formulas)):
        least = (weights[i] * (models[i] != wished[i])).sum()
        for a in _alive(formulas[i], tables, variables):
            cost = 0
            for v in range(variables):
                if ((a >> v) & 1) != wished[i, v]:
                    cost += weights[i, v]
            if cost < least:
                least = cost
                for v in range(variables):
                    models[i, v] = (a >> v) & 1
