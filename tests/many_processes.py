"""Trains recipes as each of several processes: `torchrun ... many_processes.py doubles|cut|plain FOLDER RECIPE...`

doubles: everything in float64, so that what is left of a difference is no rounding. cut: weights cut over the processes by
FSDP2, which accelerate itself offers on accelerators only.
"""

import sys
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin, PartialState
from accelerate.utils import DistributedType

from anyorder.training.fit import run_recipe
from anyorder.training.recipes import load_recipe

FLOAT32, load_file = torch.float32, safetensors.torch.load_file


def read_as_written(*arguments: Any) -> Any:
    """Weights, which are float32 in a file whatever that name means here."""
    torch.float32 = FLOAT32  # type: ignore[misc]
    try:
        return load_file(*arguments)
    finally:
        torch.float32 = torch.float64  # type: ignore[misc]


def main(how: str, folder: str, *recipes: str) -> None:
    if how == "doubles":
        torch.set_default_dtype(torch.float64)
        safetensors.torch.load_file = read_as_written
        torch.float32 = torch.float64  # type: ignore[misc]  # which the package names where it makes numbers
        torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    if how == "cut":
        state = Accelerator(cpu=True).state
        state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2, auto_wrap_policy="transformer_based_wrap", transformer_cls_names_to_wrap=["Block"],
            cpu_ram_efficient_loading=False, reshard_after_forward=True,
        )  # fmt: skip
        state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    changes = ["optimizer.name=adamw"] if how in ("cut", "plain") else []
    for recipe in recipes:
        run_recipe(load_recipe(recipe, changes), Path(folder) / Path(recipe).stem)


main(*sys.argv[1:])
