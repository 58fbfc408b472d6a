"""Rooms import downwards only."""

import ast
from pathlib import Path

import pytest

import anyorder

ROOT = Path(anyorder.__file__).parent
HEIGHT = {
    name: height
    for height, names in enumerate(
        [
            [
                "compiled",
                "entries",
                "errors",
                "files",
                "nesting",
                "noise",
                "own_code",
                "processes",
                "registry",
                "relations",
                "signatures",
            ],
            ["diffusion", "hub", "state", "weights"],
            ["ends", "prediction"],
            ["memory"],
            ["denoisers"],
            ["causal", "orders"],
            ["parts"],
            ["tasks"],
            ["decoding"],
            ["losses"],
            ["zoo"],
            ["training", "interfaces"],
            ["evaluation"],
            ["report"],
            ["reproduce"],
            ["session"],
            ["batch", "fitting", "serving"],
            ["cli", "demo", "__main__"],
        ]
    )
    for name in names
}
FILES = [path for path in ROOT.rglob("*.py") if path.name != "__init__.py" or path.parent.name == "zoo"]


def room_of(path: Path) -> str:
    part = path.relative_to(ROOT).parts[0]
    return part.removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_downwards(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("anyorder."):
            other = node.module.split(".")[1]
            assert HEIGHT[other] <= HEIGHT[room_of(path)], f"{room_of(path)} imports {node.module}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_can_be_read_from_top_to_bottom(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
