"""What ships besides code: cards of the shipped models, the citation, licenses of what is depended on, a quick `--help`.

That the built wheel installs and works away from the checkout is the business of `make package`."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

import anyorder

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ZOO = sorted({path.parent for path in (ROOT / "src/anyorder/zoo").glob("*/*") if path.name in ("model.safetensors", "order")})
SECTIONS = ["Data", "Training", "Measured", "Limits", "License"]
NAMED = {"dev", "docs", "tm", "igfold-noncommercial"}
"""Extras for development, and those whose name or comment says that their license is another."""
PERMISSIVE = re.compile(r"\b(MIT|Apache|BSD|0BSD|PSF|Python Software Foundation|BSL-1\.0|Zlib|CC0-1\.0)\b", re.IGNORECASE)
COPYLEFT = re.compile(r"GPL|General Public|Mozilla|MPL|non-?commercial|CC-BY-NC", re.IGNORECASE)


@pytest.mark.parametrize("folder", ZOO, ids=lambda path: path.name)
def test_every_shipped_model_has_a_card(folder: Path) -> None:
    card = next(path for path in (folder / "README.md", folder / "order/README.md") if path.is_file())
    text = card.read_text(encoding="utf-8")
    header, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    assert yaml.safe_load(header)["license"] == "apache-2.0"
    assert re.findall(r"^## (.*)$", body, re.MULTILINE) == SECTIONS
    assert "anyorder train " in body or "anyorder fit " in body
    assert re.search(r"\d %? ?\(\d", body), "what was measured has intervals"


def test_numbers_of_the_cards_stand_in_the_docs() -> None:
    docs = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))
    docs = docs.replace(" - ", "-")
    for folder in ZOO:
        for card in folder.rglob("README.md"):
            for interval in re.findall(r"\((\d+\.\d-\d+\.\d)\)", card.read_text(encoding="utf-8")):
                assert interval in docs, f"{card.relative_to(ROOT)}: {interval}"


def test_the_version_stands_in_one_place() -> None:
    assert PROJECT["dynamic"] == ["version"]
    for name in ("pyproject.toml", "CITATION.cff"):
        assert anyorder.__version__ not in (ROOT / name).read_text(encoding="utf-8"), name


def test_the_citation_names_the_papers() -> None:
    values = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (values["cff-version"], values["license"]) == ("1.2.0", PROJECT["license"])
    assert values["title"].startswith("anyorder")
    cited = {paper["identifiers"][0]["value"] for paper in values["references"]}
    assert cited == {"arXiv:2606.00295", "arXiv:2510.05725", "arXiv:2512.09106"}
    for paper in values["references"]:
        number = paper["identifiers"][0]["value"].removeprefix("arXiv:")
        assert paper["url"] == f"https://arxiv.org/abs/{number}" and paper["journal"].endswith(number)
        assert all(author["family-names"] and author["given-names"] for author in paper["authors"])


def requirements() -> list[str]:
    """Names of all that is installed with anyorder, and with any extra that does not say that it is different."""
    extras = [r for name, wanted in PROJECT["optional-dependencies"].items() if name not in NAMED for r in wanted]
    names = {re.match(r"[\w.-]+", requirement)[0] for requirement in [*PROJECT["dependencies"], *extras]}  # type: ignore[index]
    return sorted(names - {"anyorder"})


@pytest.mark.parametrize("name", requirements())
def test_what_anyorder_depends_on_is_permissively_licensed(name: str) -> None:
    try:
        facts = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    classifiers = [c for c in facts.get_all("Classifier") or [] if c.startswith("License")]
    said = facts.get("License-Expression") or " ".join(classifiers) or facts.get("License") or ""
    assert PERMISSIVE.search(said), f"{name}: {said[:200]!r}"
    assert not COPYLEFT.search(said), f"{name}: {said[:200]!r}"


def test_help_imports_nothing_heavy() -> None:
    """So that `anyorder --help` answers at once; how fast is measured by hand."""
    code = """
import sys
from anyorder.cli import app
try:
    app(["--help"], standalone_mode=False)
except SystemExit:
    pass
heavy = {"torch", "numpy", "scipy", "numba", "transformers", "diffusers", "accelerate", "huggingface_hub", "rdkit"}
heavy |= {"matplotlib", "pandas", "pydantic"}
print("loaded:", sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage" in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded: []"
