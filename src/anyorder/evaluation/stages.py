"""How long the stages of a command took."""

import time


class Stages:
    """A stopwatch that runs from its creation; `lap` ends a stage.

    Printed: "12 s: heuristics 8 (67 %), fit 4 (33 %)".
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.perf_counter()

    def lap(self, name: str) -> None:
        """What took place since the last lap was the stage `name`."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._began
        self._began = now

    def __str__(self) -> str:
        total = sum(self.seconds.values()) or 1.0
        parts = [f"{name} {spent:.0f} ({100 * spent / total:.0f} %)" for name, spent in self.seconds.items()]
        return f"{total:.0f} s: {', '.join(parts)}"
