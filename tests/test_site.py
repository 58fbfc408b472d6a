"""The documentation site: it builds without a warning, its links lead somewhere, and what it says of the code is so."""

import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
WRITTEN = [*ROOT.glob("*.md"), *DOCS.glob("*.md"), *(ROOT / "src").rglob("*.md"), ROOT / "CITATION.cff"]
SOURCES = [*WRITTEN, *(ROOT / "src").rglob("*.py"), *(ROOT / "src").rglob("*.toml"), *(ROOT / "notebooks").glob("*.ipynb")]


class Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.links += [value for name in ("href", "src") if (value := values.get(name))]
        self.anchors |= {value for name in ("id", "name") if (value := values.get(name))}


def navigation() -> list[str]:
    """The pages that the index lists, which is what the navigation is made of."""
    return re.findall(r"^- \[.*?\]\(([\w-]+)\.md\)", (DOCS / "index.md").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_every_link_and_anchor_leads_somewhere(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="pip install 'anyorder[docs]'")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", tmp_path / "trees", DOCS]
    built = subprocess.run([*command, tmp_path / "html"], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    pages = {path: Page(path) for path in (tmp_path / "html").rglob("*.html")}
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https", "data"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), f"{path.name} links to {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].anchors, f"{path.name} links to {link}"
    targets = {path: {(path.parent / urlsplit(link).path).resolve() for link in page.links} for path, page in pages.items()}
    reached = {tmp_path / "html/index.html"}
    while new := set().union(*(targets[path] for path in reached)) & set(pages) - reached:
        reached |= new
    assert reached == set(pages)
    api = (tmp_path / "html/api.html").read_text(encoding="utf-8")
    assert 'id="anyorder.decode"' in api and "Fill every masked position of a batch" in api
    commands = (tmp_path / "html/commands.html").read_text(encoding="utf-8")
    assert "--task-option" in commands and "anyorder pareto" in commands


def test_the_index_lists_every_page_once() -> None:
    assert sorted(["index", *navigation()]) == sorted(path.stem for path in DOCS.glob("*.md"))


def test_the_recipes_page_is_what_the_recipes_say() -> None:
    spec = importlib.util.spec_from_file_location("recipe_page", DOCS / "recipe_page.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "recipes.md").read_text(encoding="utf-8") == module.page(), "a recipe has changed: make docs"


def test_the_commands_page_names_every_command() -> None:
    from anyorder.cli import app

    named = re.findall(r"`anyorder ([\w-]+)`", (DOCS / "commands.md").read_text(encoding="utf-8").partition("Exit codes")[0])
    found = {
        (command.name or command.callback.__name__).replace("_", "-")
        for command in app.registered_commands
        if command.callback is not None
    }
    assert set(named) == found


def test_every_test_that_the_faq_names_exists() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (DOCS / "faq.md").read_text(encoding="utf-8"))
    assert len(named) > 30
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{file}::{test}"


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_addresses_are_well_formed(path: Path) -> None:
    """Whether they answer needs a network: `make linkcheck`."""
    for address in re.findall(r"https?:[^\s)\]>\"'`]*", path.read_text(encoding="utf-8")):
        parts = urlsplit(address)
        if parts.hostname == "127.0.0.1":  # a server of one's own
            continue
        assert parts.scheme == "https", address
        assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc), address


def test_arxiv_numbers_are_well_formed() -> None:
    for path in SOURCES:
        for number in re.findall(r"arxiv(?:\.org/abs/|[ :]\s*)(\d[\w./-]*\w)", path.read_text(encoding="utf-8"), re.IGNORECASE):
            assert re.fullmatch(r"\d\d(0[1-9]|1[0-2])\.\d{4,5}(v\d+)?", number), f"{path.name}: arXiv {number}"
