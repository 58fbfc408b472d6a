"""Where the machine gives less than usual: nowhere to keep compiled functions, numbers that are too large."""

import numpy as np
import pytest
from numba.core.caching import CacheImpl
from typer.testing import CliRunner

from anyorder.cli import app
from anyorder.cli.options import LARGEST
from anyorder.compiled import compiled
from anyorder.errors import BadInput
from anyorder.tasks import make_task

PUZZLE = "1030041000404001"


def twice(numbers: np.ndarray) -> np.ndarray:
    return 2 * numbers


def test_functions_are_compiled_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an installation that is read-only for a user without a home."""
    monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    assert compiled(twice)(np.arange(3)).tolist() == [0, 2, 4]


@pytest.mark.parametrize(
    "arguments",
    [
        *(["sample", PUZZLE, option, str(10**30)] for option in ("--seed", "--number", "--limit", "--batch-size", "--steps")),
        *(["evaluate", option, str(2**63)] for option in ("--seed", "--limit", "--draws", "--batch-size", "--steps")),
        ["evaluate", "--steps", "1," + "9" * 5000],
        ["evaluate", "--noise", "0,inf"],
        ["evaluate", "--noise", "nan"],
        ["pareto", "--blocks", str(10**30)],
        ["pareto", "--bounds", "1,1e999"],
        ["reproduce", "table1", "--seeds", str(10**30)],
        ["fit", "--model", "sudoku4", "--data", "x", "--updates", str(10**30)],
    ],
    ids=" ".join,
)
def test_numbers_that_are_too_large_are_a_usage_error(arguments: list[str], tmp_path: object) -> None:
    more = ["--model", "sudoku4"] if arguments[0] in ("sample", "evaluate", "pareto") else []
    limit = ["--limit", "1"] if arguments[0] == "evaluate" and "--limit" not in arguments else []
    found = CliRunner().invoke(app, [*arguments, *more, *limit])
    assert found.exit_code == 2 or isinstance(found.exception, BadInput), found.exception
    assert len(str(found.exception)) < 300


@pytest.mark.parametrize("seed", [0, LARGEST])
@pytest.mark.parametrize("order", ["random", "confidence~0.1"])
def test_the_largest_seed_works(seed: int, order: str) -> None:
    found = CliRunner().invoke(app, ["sample", PUZZLE, "--model", "sudoku4", "--seed", str(seed), "--order", order])
    assert found.exit_code in (0, 1) and not isinstance(found.exception, Exception), found.exception


def test_an_alphabet_that_is_no_name_is_refused() -> None:
    for alphabet in (1, 2.5, ("a", "b")):
        with pytest.raises(BadInput, match="is no alphabet, and no name of one"):
            make_task("text", alphabet=alphabet)
