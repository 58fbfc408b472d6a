"""How long the stages of a command took."""

import pytest

from anyorder.evaluation import stages
from anyorder.evaluation.stages import Stages


def test_the_laps_of_a_stopwatch_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 18.0, 21.0, 22.0])
    monkeypatch.setattr(stages.time, "perf_counter", lambda: next(times))
    watch = Stages()
    for name in ("heuristics", "fit", "heuristics"):
        watch.lap(name)
    assert watch.seconds == {"heuristics": 9.0, "fit": 3.0}
    assert str(watch) == "12 s: heuristics 9 (75 %), fit 3 (25 %)"
