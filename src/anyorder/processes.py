"""Work that is cut over the processes that a launcher (`torchrun`, `accelerate launch`) has started."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Part = TypeVar("Part")


def launched() -> tuple[int, int]:
    """This process's number and how many there are, by what the launcher says; (0, 1) without one."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def launched_alone() -> bool:
    """Whether `accelerate launch --cpu` was asked for several processes: it starts a single one, and does not say so."""
    several = {"WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"}
    asked = os.environ.get("ACCELERATE_USE_CPU") == "True" and "MASTER_ADDR" in os.environ
    return asked and not several & os.environ.keys()


@dataclass(frozen=True)
class Shard:
    """Which part of the work a process does: number `index` of `count`. By default all of it."""

    index: int = 0
    count: int = 1

    @classmethod
    def join(cls) -> "Shard":
        """This process among all that were launched; from here on they can talk to one another."""
        if launched()[1] == 1:
            return cls()
        import torch
        from accelerate import PartialState

        state = PartialState(cpu=not torch.accelerator.is_available())
        return cls(state.process_index, state.num_processes)

    def slice(self, batch_size: int) -> slice:
        """The rows of this process, of a batch that divides among all."""
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
        """What each process has, process by process; all get it."""
        if self.count == 1:
            return [mine]
        from accelerate.utils import gather_object

        found: list[Part] = gather_object([mine])
        return found
