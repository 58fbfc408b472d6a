"""A package with parts of its own is used by every command and recipe, without any edit in anyorder."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import anyorder
from anyorder.registry import REGISTRIES
from commands import run

SOURCE = Path(__file__).with_name("plugin")
PACKAGE = Path(anyorder.__file__).parent
NAMES = {"order": "outside_in", "count rule": "share", "policy": "pair", "task": "mirror", "denoiser": "mixer"}
Run = Callable[..., subprocess.CompletedProcess[str]]

DENOISER_RECIPE = """
kind = "denoiser"

[task]
name = "mirror"
options = { half = 3 }

[data]
size = 200

[denoiser]
architecture = "mixer"
width = 12

[optimizer]
lr = 0.01

[run]
steps = 40
batch_size = 32
"""
ORDER_RECIPE = """
kind = "order"
denoiser = "DENOISER"

[task]
name = "mirror"
options = { half = 3 }

[data]
size = 100

[policy]
architecture = "pair"
width = 8

[objective]
critic = false

[optimizer]
lr = 0.01

[run]
steps = 10
batch_size = 16
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, installed from its pyproject.toml into a folder, without a network."""
    source, target = tmp_path_factory.mktemp("source") / "plugin", tmp_path_factory.mktemp("installed")
    shutil.copytree(SOURCE, source)
    command = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    done = subprocess.run([sys.executable, *command, "--target", str(target), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def running(*folders: Path) -> Run:
    """`run(*arguments)` runs Python where these folders can be imported from."""
    path = os.pathsep.join(str(folder) for folder in (PACKAGE.parent, *folders))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200"}

    def run(*arguments: str | Path, fails: bool = False) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=300
        )  # fmt: skip
        assert (done.returncode != 0) == fails, f"{arguments}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done

    return run


@pytest.fixture(scope="module")
def python(installed: Path) -> Run:
    """Run Python with the package installed."""
    return running(installed)


def run_with(folder: Path, *arguments: str | Path, fails: bool = False) -> subprocess.CompletedProcess[str]:
    """A command of anyorder in this process, which imports from a folder until it is done."""
    with pytest.MonkeyPatch.context() as patch:
        for registry in REGISTRIES.values():
            registry.names()
            patch.setattr(registry, "_entries", dict(registry._entries))
            patch.setattr(registry, "_pending", None)
        patch.syspath_prepend(folder)
        patch.setenv("COLUMNS", "200")
        try:
            done = run(*arguments)
        finally:
            for name in [name for name in sys.modules if name.partition(".")[0] == "anyorder_example"]:
                del sys.modules[name]
    assert (done.returncode != 0) == fails, f"{arguments}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done


@pytest.fixture(scope="module")
def command(installed: Path) -> Run:
    """Run a command of anyorder with the package installed."""
    return partial(run_with, installed)


@pytest.fixture(scope="module")
def trained(command: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A denoiser of the package's class, trained by a recipe on the package's task."""
    folder = tmp_path_factory.mktemp("denoiser")
    (folder / "mirror-denoiser.toml").write_text(DENOISER_RECIPE)
    command("train", folder / "mirror-denoiser.toml", "--out", folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def fitted(command: Run, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of the package's architecture, trained by a recipe for that denoiser."""
    folder = tmp_path_factory.mktemp("order")
    (folder / "mirror-order.toml").write_text(ORDER_RECIPE.replace("DENOISER", str(trained)))
    command("train", folder / "mirror-order.toml", "--out", folder / "run")
    return folder / "run"


# ---- in Python ----


def test_nothing_in_anyorder_knows_of_the_package() -> None:
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "anyorder_example" not in text
        assert not any(f'"{name}"' in text for name in NAMES.values()), path


def test_every_registry_has_the_packages_part(python: Run) -> None:
    done = python("-c", """
from anyorder.registry import COUNT_RULES, DENOISERS, ORDERS, POLICIES, TASKS
for registry in (ORDERS, COUNT_RULES, POLICIES, TASKS, DENOISERS):
    print(registry.kind, [entry.name for entry in registry.entries() if entry.part.__module__.startswith("anyorder_example")])
print(ORDERS.names(default=True)[-1], ORDERS.entry("outside_in").facts["color"], COUNT_RULES.usage("share"))
""")  # fmt: skip
    assert done.stdout.splitlines() == [
        "order ['outside_in']", "count rule ['share']", "policy ['pair']", "task ['mirror']", "denoiser class ['mixer']",
        "outside_in purple share[:SHARE]",
    ]  # fmt: skip


def test_a_sampler_of_the_packages_parts_is_saved_and_loaded(python: Run, tmp_path: Path) -> None:
    python("-c", f"""
from anyorder.decoding.sampler import Sampler
sampler = Sampler("outside_in", count="share:0.5", steps=4)
assert str(sampler) == "outside_in@share:0.5" and Sampler.parse(str(sampler), steps=4) == sampler
sampler.save_pretrained({str(tmp_path)!r})
assert Sampler.from_pretrained({str(tmp_path)!r}) == sampler
""")  # fmt: skip
    done = running()("-c", f"""
from anyorder.decoding.sampler import Sampler
Sampler.from_pretrained({str(tmp_path)!r})
""", fails=True)  # fmt: skip
    assert "BadInput: order 'outside_in' is unknown" in done.stderr.splitlines()[-1], "where the package is not installed"


# ---- commands ----


def test_list_shows_every_part_with_its_help(python: Run) -> None:
    shown = python("-m", "anyorder", "list").stdout
    for name in NAMES.values():
        assert name in shown
    assert "Distance from the middle" in shown and "share[:SHARE]" in shown
    assert "[from anyorder_example]" in shown


def test_train_makes_a_denoiser_of_the_packages_class(trained: Path) -> None:
    assert json.loads((trained / "config.json").read_text())["width"] == 12
    assert json.loads((trained / "task.json").read_text()) == {"name": "mirror", "options": {"half": 3}}


def test_train_makes_a_policy_of_the_packages_architecture(fitted: Path) -> None:
    config = json.loads((fitted / "config.json").read_text())
    assert (config["architecture"], config["width"]) == ("pair", 8)


def test_train_refuses_a_setting_that_the_packages_policy_does_not_have(command: Run, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "order.toml").write_text(ORDER_RECIPE.replace("DENOISER", str(trained)))
    done = command("train", tmp_path / "order.toml", "--out", tmp_path / "run", "--set", "policy.heads=3", fails=True)
    assert len(done.stderr.strip().splitlines()) == 1 and "heads" in done.stderr


def test_evaluate_compares_the_packages_order_count_rule_and_policy(command: Run, trained: Path, fitted: Path) -> None:
    orders = f"outside_in,outside_in@share:0.5,confidence@share,{fitted},anyorder_example.order:outside_in"
    table = fitted / "table.json"
    command("evaluate", "--model", trained, "--orders", orders, "--steps", "3", "--limit", "20", "--json", table)
    results = {result["order"]: result for result in json.loads(table.read_text())["results"]}
    assert list(results) == orders.split(",")
    assert results["outside_in"]["instance_accuracy"] == results["anyorder_example.order:outside_in"]["instance_accuracy"]


def test_evaluate_includes_the_packages_order_by_default(command: Run, trained: Path, tmp_path: Path) -> None:
    command("evaluate", "--model", trained, "--steps", "3", "--limit", "10", "--json", tmp_path / "table.json")
    assert "outside_in" in {result["order"] for result in json.loads((tmp_path / "table.json").read_text())["results"]}


def test_sample_decodes_a_problem_of_the_packages_task(command: Run, trained: Path) -> None:
    done = command("sample", "01..1.", "--model", trained, "--order", "outside_in@share:0.5", "--steps", "all")
    assert any(len(line) == 6 and set(line) <= set("012") for line in done.stdout.split())


def test_sample_says_what_is_wrong_with_an_argument(command: Run, trained: Path) -> None:
    done = command("sample", "01..1.", "--model", trained, "--order", "outside_in@share:2", fails=True)
    assert "share is 2.0; it must lie in (0, 1]" in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_pareto_tries_the_values_that_the_packages_rule_declares(command: Run, trained: Path, tmp_path: Path) -> None:
    where = tmp_path / "pareto.json"
    command("pareto", "--model", trained, "--orders", "confidence@share,outside_in", "--limit", "20", "--json", where)
    text = where.read_text()
    assert all(f"share:{value}" in text for value in (0.1, 0.25, 0.5)) and "outside_in" in text


def test_commands_take_references_to_parts_that_are_not_installed(trained: Path, tmp_path: Path) -> None:
    """The modules alone, on the path, without the entry points of an installed package."""
    shutil.copytree(SOURCE / "src" / "anyorder_example", tmp_path / "anyorder_example")
    where = tmp_path / "table.json"
    run_with(
        tmp_path, "evaluate", "--task", "anyorder_example.task:Mirror", "--model", trained, "--steps", "3",
        "--orders", "anyorder_example.order:outside_in,confidence@anyorder_example.count_rule:Share:0.5",
        "--limit", "10", "--json", where,
    )  # fmt: skip
    assert len(json.loads(where.read_text())["results"]) == 2
