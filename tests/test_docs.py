"""Every Python block of the README and the docs runs, and every command in them is one that the command line understands."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from anyorder import registry
from anyorder.cli import app

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = [
    pytest.param(match.group(1), id=f"{path.relative_to(ROOT)}-{number}")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for number, match in enumerate(BLOCK.finditer(path.read_text(encoding="utf-8")))
]

FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMANDS = [
    pytest.param(line, id=f"{path.name}-{number}")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for number, line in enumerate(
        line
        for language, block in FENCED.findall(path.read_text(encoding="utf-8"))
        if language != "python"
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("anyorder ") and " ..." not in line
    )
]


@pytest.mark.parametrize("line", COMMANDS)
def test_command_is_understood(line: str) -> None:
    words = shlex.split(line, comments=True)
    ends = [number for number, word in enumerate(words) if word in ("|", ">", ">>")]
    words = words[1 : ends[0]] if ends else words[1:]
    commands = typer.main.get_command(app)
    if words[0].startswith("-") or words[0].isupper():
        return  # `anyorder --help`, `anyorder COMMAND --help`
    command = commands.commands[words[0]]  # type: ignore[attr-defined]
    with command.make_context(words[0], words[1:]) as context:
        assert context.params is not None


@pytest.mark.parametrize("code", BLOCKS)
def test_code_block_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for value in vars(registry).values():
        if isinstance(value, registry.Registry):  # what a block registers is gone afterwards
            value.known()  # imports the built-in parts, which are registered once
            monkeypatch.setattr(value, "_entries", dict(value._entries))
    exec(compile(code, "block", "exec"), {"__name__": "block"})


def test_links_between_documents_lead_somewhere() -> None:
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8")):
            if not target.startswith(("http:", "https:")):
                assert (path.parent / target).exists(), f"{path.name} links to {target}"
