"""Work that is divided among the processes that a launcher (`torchrun`, `accelerate launch`) has started."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

from anyorder.errors import BadInput

Part = TypeVar("Part")
_MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def launched() -> tuple[int, int]:
    """The number of this process and the number of processes, as the launcher sets them; (0, 1) without a launcher.

    Raises:
        BadInput: they are not numbers, or the launcher is MPI's.
    """
    by_mpi = [name for name in _MPI if os.environ.get(name, "1") != "1"]
    if by_mpi and "WORLD_SIZE" not in os.environ:
        raise BadInput(f"started by MPI ({by_mpi[0]} is set), which is not supported: use torchrun or accelerate launch")
    try:
        index, count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    except ValueError as error:
        raise BadInput(f"the variables RANK and WORLD_SIZE are not a launcher's: {error}") from error
    return (index, count) if count > 1 else (0, 1)


def launched_alone() -> bool:
    """Whether `accelerate launch --cpu` was called with several processes: it starts a single one without a warning."""
    asked = os.environ.get("ACCELERATE_USE_CPU") == "True" and "MASTER_ADDR" in os.environ
    return asked and not {"WORLD_SIZE", *_MPI} & os.environ.keys()


@dataclass(frozen=True)
class Shard:
    """The share of the work that a process does: number `index` of `count`. By default all of it."""

    index: int = 0
    count: int = 1

    @classmethod
    def join(cls) -> "Shard":
        """This process among all that were launched. From here on they can communicate."""
        if launched()[1] == 1:
            return cls()
        import torch
        from accelerate import PartialState

        state = PartialState(cpu=not torch.accelerator.is_available())
        return cls(state.process_index, state.num_processes)

    def slice(self, batch_size: int) -> slice:
        """The rows of this process, in a batch that is divisible by the number of processes."""
        per_process = batch_size // self.count
        return slice(self.index * per_process, (self.index + 1) * per_process)

    def total(self, value: "Tensor") -> "Tensor":
        """The sum of a number over all processes."""
        if self.count > 1:
            import torch

            value = value.clone()
            torch.distributed.all_reduce(value)
        return value

    def gather(self, mine: Part) -> list[Part]:
        """The values of all processes, in their order, on every process."""
        if self.count == 1:
            return [mine]
        from accelerate.utils import gather_object

        found: list[Part] = gather_object([mine])
        return found
