"""Put the built documentation into a site of several versions: `make docs`, then `python tools/publish_docs.py SITE`.

    SITE/index.html      leads to the newest release
    SITE/versions.json   what the switch in the sidebar offers
    SITE/0.1.0/...       one folder per version; the same version replaces its folder

The name is the version of the package; `--name development` is for what is not released. SITE is a folder, such as a checkout
of the branch that is served.
"""

import argparse
import json
import re
import shutil
from pathlib import Path

import anyorder

BUILT = Path(__file__).resolve().parents[1] / "docs/_build/html"
_RELEASE = re.compile(r"\d+(\.\d+)*")


def publish(built: Path, site: Path, name: str) -> None:
    """Copy one version, and list all."""
    if not (built / "index.html").is_file():
        raise SystemExit(f"{built} holds no documentation: run `make docs` first")
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise SystemExit(f"{name!r} is no name of a folder")
    site.mkdir(parents=True, exist_ok=True)
    fresh, place = site / f".{name}", site / name
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(built, fresh)
    shutil.rmtree(place, ignore_errors=True)
    fresh.rename(place)
    names = [path.parent.name for path in site.glob("*/index.html") if not path.parent.name.startswith(".")]
    versions = sorted(names, key=_newest_last, reverse=True)
    latest = next((one for one in versions if _RELEASE.fullmatch(one)), versions[0])
    (site / "versions.json").write_text(json.dumps({"latest": latest, "versions": versions}) + "\n", encoding="utf-8")
    head = f'<meta charset="utf-8"><meta http-equiv="refresh" content="0; url={latest}/"><title>anyorder</title>'
    (site / "index.html").write_text(f'<!doctype html>{head}<a href="{latest}/">anyorder {latest}</a>\n', encoding="utf-8")


def _newest_last(name: str) -> tuple[bool, list[int], str]:
    """Releases by their numbers, behind everything else."""
    release = _RELEASE.fullmatch(name) is not None
    return release, [int(part) for part in name.split(".")] if release else [], name


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path)
    parser.add_argument("--name", default=anyorder.__version__)
    given = parser.parse_args()
    publish(BUILT, given.site, given.name)


if __name__ == "__main__":
    main()
