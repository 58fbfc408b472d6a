"""How Sphinx builds the site: `make docs`. The pages are plain Markdown and read well without Sphinx; three things are added
here: the navigation, from the lists of links in index.md; the docstrings of what api.md lists; the options of all commands."""

import inspect
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from sphinx.application import Sphinx

import anyorder
from anyorder.cli.command import fill

project = "anyorder"
author = copyright = "The anyorder developers"
version = release = anyorder.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "_templates"]
highlight_language = "text"
default_role = "code"  # one backtick is code, in docstrings too
myst_heading_anchors = 4  # page.md#heading leads to a heading, as on GitHub

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"anyorder {release}"
templates_path = ["_templates"]
html_sidebars = {
    "**": [
        "sidebar/brand.html", "sidebar/search.html", "versions.html", "sidebar/scroll-start.html", "sidebar/navigation.html",
        "sidebar/scroll-end.html",
    ]
}  # fmt: skip
html_copy_source = False
linkcheck_timeout = 20


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.connect("source-read", _complete)


def _complete(app: Sphinx, page: str, source: list[str]) -> None:
    """Add to a page, as it is read, what its Markdown leaves to Sphinx."""
    complete = {"index": _with_navigation, "api": _with_docstrings, "commands": _with_commands}.get(page)
    if complete is not None:
        source[0] = complete(source[0])


def _with_navigation(text: str) -> str:
    """The pages linked to under each heading of the index, as a section of the navigation."""
    for title, section in re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", text, re.MULTILINE):
        pages = re.findall(r"^- \[.*?\]\(([\w-]+)\.md\)", section, re.MULTILINE)
        if pages:
            text += f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n" + "\n".join(pages) + "\n```\n"
    return text


def _with_docstrings(text: str) -> str:
    """In place of each item "- `name`: ..." of a list, what the docstring of that name says."""
    return re.sub(r"^- `(anyorder[\w.]*)`.*\n(  .*\n)*", lambda found: _docstring(found[1]), text, flags=re.MULTILINE)


def _docstring(name: str) -> str:
    module, _, last = name.rpartition(".")
    what = getattr(import_module(module), last)
    if inspect.isclass(what):
        directive = f".. autoclass:: {name}\n   :members:\n   :exclude-members: __init__, __new__"
    elif inspect.isroutine(what):
        directive = f".. autofunction:: {name}"
    else:
        directive = f".. autodata:: {name}\n   :no-value:"
    return f"\n```{{eval-rst}}\n{directive}\n```\n\n"


def _with_commands(text: str) -> str:
    """What `typer` knows of every command, in place of the comment that asks for it."""
    command = [sys.executable, "-m", "typer", "anyorder.cli", "utils", "docs", "--name", "anyorder"]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent).stdout
    commands = fill(found[found.index("\n## ") :].replace("```console", "```text"))
    return text.replace("<!-- every command -->", commands)
