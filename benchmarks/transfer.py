"""What a policy attains elsewhere, minus what each other curve attains with as many forward passes.

    anyorder pareto --orders confidence@threshold,confidence@factor,policy@bernoulli:0 \\
        --ignore-fingerprint --policy FOLDER --json F
    python benchmarks/transfer.py F ...

Intervals are by paired bootstrap over the problems (2,000 resamples).
"""

import json
import sys
from pathlib import Path

import numpy as np

from anyorder.evaluation.fronts import attained
from anyorder.evaluation.statistics import bootstrap_weights, percentile_interval


def points_of(found: dict, curve: str) -> tuple[np.ndarray, np.ndarray]:
    """NFE and outcomes (N, P) of a curve."""
    mine = [point for point in found["points"] if point["curve"] == curve]
    return tuple(np.array([p[name] for p in mine], dtype=float).T for name in ("nfe_each", "correct"))  # type: ignore[return-value]


def main(paths: list[Path]) -> None:
    for path in paths:
        found = json.loads(path.read_text(encoding="utf-8"))
        names = list(dict.fromkeys(point["curve"] for point in found["points"]))
        policy = next(name for name in names if name.startswith("policy"))
        nfe, correct = (values[:, 0] for values in points_of(found, policy))
        weights = bootstrap_weights(len(correct))
        cells = [path.stem, f"{nfe.mean():.1f} nfe", f"{100 * correct.mean():.1f} %"]
        for name in names:
            if name == policy:
                continue
            f, a = points_of(found, name)
            gap = correct.mean() - attained(f.mean(axis=0), a.mean(axis=0), nfe.mean(keepdims=True))[0]
            draws = [w @ correct - attained(w @ f, w @ a, np.array([w @ nfe]))[0] for w in weights]
            low, high = percentile_interval(np.array(draws))
            cells.append(f"minus {name} {100 * gap:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})")
        print(" | ".join(cells))


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
