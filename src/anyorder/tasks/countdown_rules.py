"""The rules of Countdown: an exact solver and a generator compiled by numba, and the checker of a written solution."""

import ast
import re
from collections.abc import Sequence

import numpy as np

from anyorder.compiled import compiled

OPERATIONS = "+*-/"
"""In the order in which the search tries them."""

_NUMBER = "(0|[1-9][0-9]*)"
_EQUATION = re.compile(f"{_NUMBER}([-+*/]){_NUMBER}={_NUMBER}")


@compiled
def _result(operation: int, low: int, high: int) -> int:
    """Of two numbers, not negative, low <= high; -1 for a division that leaves a rest or is by 0."""
    if operation == 0:
        return low + high
    if operation == 1:
        return low * high
    if operation == 2:
        return high - low
    return -1 if low == 0 or high % low else high // low


@compiled
def put_result(left: np.ndarray, depth: int, i: int, j: int, result: int) -> None:
    """Write the numbers that are left after an equation to the next depth: all but those at i and j, and then its result.

    Args:
        left: int64 (n, n), of which row `depth` holds n - depth numbers.
    """
    size, kept = left.shape[0] - depth, 0
    for k in range(size):
        if k not in (i, j):
            left[depth + 1, kept] = left[depth, k]
            kept += 1
    left[depth + 1, kept] = result


@compiled
def solve(numbers: np.ndarray, target: int, limit: int, first: np.ndarray) -> int:
    """Ways to make the target of all n numbers, counted up to `limit`; the first goes into `first`.

    Depth first: over pairs of the numbers left, in their order, then over operations; a result goes to the end. Results stay
    whole and not negative.

    Args:
        numbers: int64 (n,).
        first: int64 (n - 1, 4), rows (a, index into `OPERATIONS`, b, result); left as it is if there is no way.
    """
    n = numbers.size
    left = np.zeros((n, n), np.int64)  # left[depth, :n - depth]: the numbers at a depth
    left[0] = numbers
    path = np.zeros((n - 1, 4), np.int64)
    following = np.zeros((n - 1, 3), np.int64)  # the pair of places, and the operation, to try next at a depth
    following[0, 1] = 1
    found = depth = 0
    while depth >= 0:
        i, j, operation = following[depth]
        size = n - depth
        if i == size - 1:
            depth -= 1
            continue
        if operation < 3:
            following[depth, 2] = operation + 1
        else:
            following[depth, 2] = 0
            following[depth, 0], following[depth, 1] = (i, j + 1) if j + 1 < size else (i + 1, i + 2)
        a, b = left[depth, i], left[depth, j]
        low, high = min(a, b), max(a, b)
        result = _result(operation, low, high)
        if result < 0 or (size == 2 and result != target):
            continue
        path[depth, 0] = a if operation < 2 else high
        path[depth, 1] = operation
        path[depth, 2] = b if operation < 2 else low
        path[depth, 3] = result
        if size == 2:
            if found == 0:
                first[:] = path
            found += 1
            if found == limit:
                return found
            continue
        put_result(left, depth, i, j, result)
        following[depth + 1, 0], following[depth + 1, 1], following[depth + 1, 2] = 0, 1, 0
        depth += 1
    return found


@compiled
def generate_many(
    numbers: int, largest: int, targets: np.ndarray, seeds: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Per seed a target, drawn from `targets`, and numbers 1..largest, drawn until they make it.

    Returns:
        numbers (N, n), targets (N,), the first way of the search (N, n - 1, 4), the number of ways (N,).
    """
    count = seeds.size
    drawn = np.zeros((count, numbers), np.int64)
    wanted = np.zeros(count, np.int64)
    first = np.zeros((count, numbers - 1, 4), np.int64)
    ways = np.zeros(count, np.int64)
    for i in range(count):
        np.random.seed(seeds[i])
        wanted[i] = targets[np.random.randint(targets.size)]
        while ways[i] == 0:
            for k in range(numbers):
                drawn[i, k] = 1 + np.random.randint(largest)
            ways[i] = solve(drawn[i], wanted[i], 2**62, first[i])
    return drawn, wanted, first, ways


def equations(steps: np.ndarray) -> str:
    """Steps (n - 1, 4) as the text `86+28=114,31-13=18,114-18=96`."""
    return ",".join(f"{a}{OPERATIONS[operation]}{b}={result}" for a, operation, b, result in steps.tolist())


def is_solution(numbers: Sequence[int], target: int, text: str) -> bool:
    """Whether the equations are true, use every number and every result once, and end in the target.

    Results are whole and not negative, and numbers are written without leading zeros.
    """
    left = list(numbers)
    for part in text.split(","):
        equation = _EQUATION.fullmatch(part)
        if equation is None:
            return False
        a, operation, b, result = int(equation[1]), equation[2], int(equation[3]), int(equation[4])
        for operand in (a, b):
            if operand not in left:
                return False
            left.remove(operand)
        holds = {"+": a + b == result, "-": a - b == result, "*": a * b == result, "/": b != 0 and a == b * result}
        if not holds[operation]:
            return False
        left.append(result)
    return left == [target]


_SIGNS: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


def equations_of(expression: str) -> str:
    """An expression as equations, from the inside out: `56-66/11` as `66/11=6,56-6=50`; "" where that has no whole numbers."""
    found: list[str] = []

    def value(node: ast.AST) -> int:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return node.value
        if not isinstance(node, ast.BinOp) or type(node.op) not in _SIGNS:
            raise ValueError
        a, b, sign = value(node.left), value(node.right), _SIGNS[type(node.op)]
        if sign == "/" and (b == 0 or a % b):
            raise ValueError
        result = {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else 0}[sign]
        found.append(f"{a}{sign}{b}={result}")
        return result

    if not re.fullmatch(r"[-+*/()0-9]{1,40}", expression):
        return ""
    try:
        value(ast.parse(expression, mode="eval").body)
    except (ValueError, SyntaxError):
        return ""
    return ",".join(found)
