"""Does the package work away from the checkout? `make package`.

Builds the sdist and the wheel, looks whether everything is in them and whether the sdist builds the same wheel, installs the
wheel into an empty virtual environment, and there runs the README's ten lines, `anyorder --help`, `anyorder list` and a small
`anyorder sample`. The wheel and the sdist end in dist/.

Environment: PIP_TORCH, options of pip for PyTorch, as in the Makefile.
"""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PUZZLE = "080050060460907108005000029970006500000872031300049000004025003010000480603100007"
SOLVED = "789251364462937158135468729978316542546872931321549876894725613217693485653184297"
LOAD_ALL = """
from anyorder import load_denoiser, load_order, make_task
from anyorder.training.recipes import load_recipe, recipe_names
from anyorder.zoo import order_folder, zoo_names

for name in zoo_names():
    denoiser = load_denoiser(name)
    if order_folder(name).is_dir():
        load_order(name, denoiser)
for name in recipe_names():
    load_recipe(name)
make_task("text", alphabet="subwords")
"""


def main() -> None:
    """Build, look, install, run; the first thing that is wrong ends it."""
    with tempfile.TemporaryDirectory(prefix="anyorder-package-") as name:
        folder = Path(name)
        wheel, sdist = build(ROOT, folder / "built", "--sdist", "--wheel")
        check_contents(wheel, sdist)
        check_sdist_builds_the_same(wheel, sdist, folder)
        python = install(wheel, folder / "venv")
        check_installed(python, folder / "elsewhere")
        (ROOT / "dist").mkdir(exist_ok=True)
        for archive in (wheel, sdist):
            shutil.copy2(archive, ROOT / "dist")
            print(f"dist/{archive.name}: {archive.stat().st_size / 1e6:.1f} MB")


def build(source: Path, out: Path, *what: str) -> tuple[Path, Path | None]:
    """The wheel, and the sdist if it was asked for, built from `source`, each by itself, in an environment of its own."""
    say(f"build {' '.join(what)}")
    run([sys.executable, "-m", "build", *what, "--outdir", out, source])
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"), None)


def check_contents(wheel: Path, sdist: Path | None) -> None:
    """Every tracked file of the package is in the wheel, every tracked file but those of CI in the sdist, and nothing else."""
    say("contents")
    tracked = run(["git", "ls-files"], cwd=ROOT).splitlines()
    package = {path.removeprefix("src/") for path in tracked if path.startswith("src/")}
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
        facts = {name.rpartition("/")[2] for name in archive.namelist() if ".dist-info/" in name}
    same("the wheel", found, package)
    same("the wheel's metadata", facts, {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "LICENSE"})
    assert sdist is not None
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    same("the sdist", names, {path for path in tracked if not path.startswith((".ci/", ".github/"))} | {"PKG-INFO"})


def same(what: str, found: set[str], wanted: set[str]) -> None:
    """Or say what is missing, and what should not be there."""
    if found != wanted:
        sys.exit(f"{what}: missing {sorted(wanted - found)}, too much {sorted(found - wanted)}")


def check_sdist_builds_the_same(wheel: Path, sdist: Path | None, folder: Path) -> None:
    """The wheel that the unpacked sdist builds has the same files with the same content."""
    assert sdist is not None
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    again, _ = build(next((folder / "unpacked").iterdir()), folder / "again", "--wheel")
    if hashes(again) != hashes(wheel):
        sys.exit("the sdist builds another wheel than the checkout")


def hashes(wheel: Path) -> dict[str, str]:
    """The files of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def install(wheel: Path, folder: Path) -> Path:
    """The Python of a fresh environment with the wheel and what it depends on, torch first, as in the Makefile."""
    say("install into an empty environment")
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", ROOT / "constraints.txt"]
    run([*pip, *shlex.split(os.environ.get("PIP_TORCH", "")), "torch"])
    run([*pip, wheel])
    return python


def check_installed(python: Path, folder: Path) -> None:
    """The README's ten lines and three commands, in a folder that knows nothing of the checkout."""
    folder.mkdir()
    ten_lines = re.search(r"^## Ten lines\n\n```python\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.M | re.S)
    assert ten_lines is not None
    anyorder = python.with_name("anyorder")
    where = run([python, "-c", "import anyorder; print(anyorder.__file__)"], cwd=folder).strip()
    if not Path(where).is_relative_to(python.parents[1]):
        sys.exit(f"anyorder was imported from {where}")
    say("the README's ten lines")
    print(run([python, "-c", ten_lines[1]], cwd=folder))
    say("anyorder --help")
    began = time.perf_counter()
    run([anyorder, "--help"], cwd=folder)
    print(f"{time.perf_counter() - began:.2f} seconds")
    say("all that is shipped can be loaded")
    run([python, "-c", LOAD_ALL], cwd=folder)
    say("anyorder list, anyorder sample, anyorder evaluate, anyorder report")
    listed = run([anyorder, "list"], cwd=folder)
    for name in ("sudoku9", "moses", "antiberty", "sudoku9-order", "threshold"):
        if name not in listed:
            sys.exit(f"anyorder list does not know {name}")
    if SOLVED not in run([anyorder, "sample", PUZZLE], cwd=folder):
        sys.exit("anyorder sample has not solved the puzzle")
    how = ["--generate", "givens=36", "--limit", "4", "--steps", "5", "--orders", "confidence,policy+undo"]
    run([anyorder, "evaluate", *how, "--trajectories", "t.json.gz"], cwd=folder)
    run([anyorder, "report", "t.json.gz", "-o", "report.html"], cwd=folder)


def run(command: list[str | Path], cwd: Path | None = None) -> str:
    """Standard output of a command that must succeed; nothing of the checkout or of the user reaches its Python."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=cwd, env=clean | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def say(text: str) -> None:
    """A line before what may take a while."""
    print(f"== {text}", flush=True)


if __name__ == "__main__":
    main()
