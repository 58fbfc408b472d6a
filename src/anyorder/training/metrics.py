"""The log of a run: `metrics.jsonl`, one object per logged step, and TensorBoard if requested."""

from pathlib import Path

from anyorder.errors import BadInput
from anyorder.files import dump_json, parse_json, write_text


class MetricsLog:
    """Appends to the log of a run. Lines of later steps than the one from which the run continues are dropped.

    Args:
        folder: folder of the run.
        start: the step from which it continues.
        tensorboard: also write to `tensorboard/`.

    Raises:
        BadInput: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, start: int, tensorboard: bool) -> None:
        self.path = folder / "metrics.jsonl"
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
            write_text(self.path, "".join(line + "\n" for line in lines if _step_of(line) <= start))
        self.writer = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise BadInput("run.tensorboard needs the package: pip install 'anyorder[tensorboard]'") from error
            self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)

    def write(self, numbers: dict[str, float]) -> None:
        """Append the numbers of a step; `step` is one of them."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(dump_json(numbers) + "\n")
        if self.writer is not None:
            for name, value in numbers.items():
                self.writer.add_scalar(name, value, int(numbers["step"]))

    def close(self) -> None:
        """Write what TensorBoard still holds."""
        if self.writer is not None:
            self.writer.close()


def mean_over(parts: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each number over the processes that have it."""
    names = dict.fromkeys(name for part in parts for name in part)
    have = {name: [part[name] for part in parts if name in part] for name in names}
    return {name: sum(values) / len(values) for name, values in have.items()}


def _step_of(line: str) -> float:
    try:
        return float(parse_json(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return float("inf")  # a half-written line
