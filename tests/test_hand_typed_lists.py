"""No list of names is typed by hand: the registry is asked, so that parts of other packages are in it too."""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import anyorder
from anyorder.registry import REGISTRIES

ROOT = Path(anyorder.__file__).parent
ALLOWED = {
    "reproduce/": (None, "what a published table or figure compares"),
    "demo.py": (None, "what the demonstration compares"),
    "interfaces/llada.py": ({"confidence", "random"}, "what LLaDA's function calls its two orders"),
    "training/optimizer.py": ({"cosine", "linear"}, "schedules of the learning rate, which are no count rules"),
    "training/settings.py": (
        {"cosine", "linear", "confidence", "top_k"},
        "schedules of masking and of the learning rate, which are no count rules, and UPO's references, which are no orders",
    ),
}
"""What files or folders may list, None for anything, and why."""


def registered() -> dict[str, set[str]]:
    """Names by registry, as the decorators in the source give them."""
    found: dict[str, set[str]] = {name: set() for name in REGISTRIES}
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "register":
                owner, name = node.func.value, node.args[0]
                if isinstance(owner, ast.Name) and owner.id in REGISTRIES and isinstance(name, ast.Constant):
                    found[owner.id].add(name.value)
    return found


NAMES = registered()


def names_in(text: str) -> list[str]:
    """Names that a text lists: `a, b`, `a/b`, `a|b`, `a or b`, each possibly with arguments."""
    return [part.strip(" .'\"`()[]").partition(":")[0] for part in re.split(r", |,|/|\|| or | and ", text)]


def texts(nodes: Iterable[ast.AST | None]) -> list[str]:
    """The strings among some nodes."""
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def lists_in(tree: ast.AST) -> Iterator[tuple[int, list[str]]]:
    """Line and strings of every list, tuple, set, dict (keys and values) and `Literal`, and of every text that lists."""
    for parent in ast.walk(tree):
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.List | ast.Tuple | ast.Set):
                yield node.lineno, texts(node.elts)
            elif isinstance(node, ast.Dict):
                yield node.lineno, texts(node.keys)
                yield node.lineno, texts(node.values)
            elif texts([node]) and not isinstance(parent, ast.Expr):  # an expression by itself is a docstring
                yield node.lineno, names_in(texts([node])[0])  # type: ignore[attr-defined]


def typed_by_hand(tree: ast.AST, allowed: set[str] = frozenset()) -> list[str]:  # type: ignore[assignment]
    """Each list that holds two or more names of one registry, and not only those that are allowed."""
    found = []
    for line, words in lists_in(tree):
        for kind, names in NAMES.items():
            if len(listed := sorted(names & set(words))) > 1 and not set(listed) <= allowed:
                found.append(f"line {line}: {', '.join(listed)}; use {kind}.names()")
    return found


def test_the_names_are_found() -> None:
    assert {"confidence", "policy"} <= NAMES["ORDERS"] and "threshold" in NAMES["COUNT_RULES"]


def allowed_in(path: Path) -> set[str] | None:
    """Names that a file may list; None for all."""
    place = str(path.relative_to(ROOT))
    return next((names for start, (names, _) in ALLOWED.items() if place.startswith(start)), set())


FILES = [path for path in ROOT.rglob("*.py") if allowed_in(path) is not None]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_are_asked_of_the_registry(path: Path) -> None:
    assert typed_by_hand(ast.parse(path.read_text(encoding="utf-8")), allowed_in(path) or set()) == []


@pytest.mark.parametrize(
    "code",
    [
        'orders = ["confidence", "margin"]',
        'orders = ("random", 3, "entropy")',
        'if name in {"linear", "cosine"}: pass',
        'colors = {"confidence": "red", "margin": "blue"}',
        'def f(name: Literal["mlp", "lookahead"]): ...',
        'option(help="the order: confidence, margin, entropy or policy")',
        'option(help="threshold:0.9/fixed:2")',
        'default = "confidence,margin".split(",")',
    ],
)
def test_a_list_would_be_noticed(code: str) -> None:
    assert typed_by_hand(ast.parse(code))


@pytest.mark.parametrize(
    "code",
    [
        'order = "confidence"',
        'pair = ("confidence", "threshold")',
        '"""Such as confidence, margin or entropy."""',
        "names = ORDERS.names(baseline=True)",
        '@ORDERS.register("confidence", baseline=True)\ndef confidence(): ...',
        'help = "such as confidence@threshold:0.9"',
    ],
)
def test_single_names_and_docstrings_are_none(code: str) -> None:
    assert not typed_by_hand(ast.parse(code))


def test_what_is_allowed_is_still_there() -> None:
    assert all((ROOT / name).exists() for name in ALLOWED)
