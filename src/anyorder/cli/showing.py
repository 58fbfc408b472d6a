"""Commands that show what was found: report, plot."""

from pathlib import Path
from typing import Annotated

import typer

from anyorder.cli.app import app
from anyorder.errors import BadInput


@app.command()
def report(
    sources: Annotated[
        list[Path],
        typer.Argument(help="trajectories of the same problems, a report (`evaluate --trajectories`, `--json`), or their folder"),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="the page to write")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="of the page")] = "",
) -> None:
    """A page that plays decodings back, orders side by side: one file, to be opened in any browser, that fetches nothing."""
    from anyorder.files import write_text
    from anyorder.report.page import build_page
    from anyorder.report.sources import read_sources

    if out.suffix.lower() not in (".html", ".htm"):
        raise BadInput(f"the page is an .html file, not {out.name!r}")
    trajectories, found = read_sources(sources)
    write_text(out, build_page(trajectories, found, title))
    print(f"open in a browser: {out}")
