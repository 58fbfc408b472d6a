"""What is said and kept when training diverges."""

from pathlib import Path

from anyorder.errors import Diverged
from anyorder.files import write_json
from anyorder.training.checkpoint import list_checkpoints, step_of
from anyorder.training.settings import OptimizerSettings

MARK = "diverged.json"
"""In the folder of a run that diverged: its optimizer may be set anew, see `REMEDIES`."""

REMEDIES = frozenset(
    f"optimizer.{key}" for key in ("lr", "weight_decay", "betas", "warmup_steps", "schedule", "final_lr", "clip_norm")
)
"""Settings that may differ when a run that diverged goes on: none of them changes what a checkpoint holds."""


def diverged(found: str, step: int, settings: OptimizerSettings, folder: Path) -> Diverged:
    """Mark the folder of a run as diverged.

    Args:
        found: what is not finite.
        step: in which it was found, from 1.
        settings: of the optimizer.
        folder: of the run.

    Returns:
        The error, which names the step, what usually helps, and how to go on from the last checkpoint.
    """
    write_json(folder / MARK, {"step": step, "found": found})
    helps = (
        f"a lower optimizer.lr (here {settings.lr:g}), more optimizer.warmup_steps ({settings.warmup_steps}) or a smaller "
        f"optimizer.clip_norm ({settings.clip_norm:g}) usually helps"
    )
    kept = list_checkpoints(folder / "checkpoints")
    if not kept:
        resume = f"no checkpoint had been written, so a new run in {folder} starts from the beginning"
    else:
        resume = f"run it again in {folder} with such a change, and it goes on from the checkpoint of step {step_of(kept[-1])}"
        resume += ", whose weights are finite" + "; delete that one to go on from the one before" * (len(kept) > 1)
    return Diverged(f"training diverged at step {step}: {found}. {helps[0].upper()}{helps[1:]}; {resume}")
