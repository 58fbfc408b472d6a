"""The card of a fit, for the hub."""

import json
import shlex

from anyorder.denoisers.base import fingerprint
from anyorder.evaluation.results import Report
from anyorder.evaluation.tables import markdown
from anyorder.fitting.data import Bench
from anyorder.fitting.settings import FitSettings
from anyorder.orders.learned import LearnedOrder


def card(
    settings: FitSettings, order: LearnedOrder, bench: Bench, reports: dict[str, Report], said: str, label: str, sampler: str,
    took: str,
) -> str:  # fmt: skip
    """A model card with the chosen sampler, its test, the commands, how long they took, and the tables of all comparisons."""
    task, architecture = bench.task.name, order.policy.config()["architecture"]
    header = {"library_name": "anyorder", "tags": ["masked-diffusion", "unmasking-order", task], "base_model": settings.model}
    lines = "\n".join(f"{key}: {json.dumps(value)}" for key, value in header.items())
    use = ["anyorder", "sample", "PROBLEM", "--task", task, "--model", settings.model, "--order", f"THIS_FOLDER/{sampler}"]
    use += ["--trust-remote-code"] if settings.trust_remote_code else []
    use += [word for option in settings.model_options for word in ("--model-option", option)]
    source = "generated problems" if settings.data is None else f"problems of {settings.data.name}"
    parts = "\n".join(f"## {what.capitalize()}\n\n{markdown(report)}" for what, report in reports.items())
    return f"""---
{lines}
---

# An unmasking order for {settings.model}

The sampler in `{sampler}` is **{label}**, the best one on {len(bench.validation)} validation problems. The order policy
({architecture}) beside it was fitted to {len(bench.train)} {source}, {settings.updates} updates, for the denoiser with the
fingerprint {fingerprint(bench.denoiser)}.

```
{command(settings, task)}
{shlex.join(use)}
```

On {len(bench.test)} test problems, on which nothing was chosen: {said}

The fit took {took}.

{parts}"""


def command(settings: FitSettings, task: str) -> str:
    """The command that makes the same fit again."""
    options = {
        "model": settings.model, "data": settings.data and settings.data.name, "task": task, "steps": settings.steps or "all",
        "updates": settings.updates, "train-batch-size": settings.train_batch_size, "batch-size": settings.batch_size,
        "hide": settings.hide, "samples": settings.samples, "seed": settings.seed, "architecture": settings.architecture,
        "column": settings.column,
    }  # fmt: skip
    flags = {"--skip-unreadable": settings.skip_unreadable, "--trust-remote-code": settings.trust_remote_code}
    words = [word for name, value in options.items() if value not in (None, "") for word in (f"--{name}", str(value))]
    words += [word for option in settings.generate for word in ("--generate", option)]
    words += [word for option in settings.model_options for word in ("--model-option", option)]
    return shlex.join(["anyorder", "fit", *words, *(flag for flag, used in flags.items() if used)])
