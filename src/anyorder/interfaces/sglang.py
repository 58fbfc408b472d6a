"""SGLang's algorithm for diffusion language models, with any order.

SGLang finds algorithms in the folder of its own: a file there with the line `from anyorder.interfaces.sglang import Algorithm`
adds this one under the name `AnyOrder` (see docs/engines.md). Its settings are the options of `BlockSampler`, in the YAML file
of `--dllm-algorithm-config`.

Written for the interface in which the base class owns the loops and a subclass implements `step(forward_batch, logits_output,
states)`, with and without `--dllm-fdfo`. `logits_output` is an output with `full_logits`, or the logits alone.
"""

from typing import Any

from torch import Tensor

from anyorder.errors import BadInput
from anyorder.interfaces.blocks import OPTIONS, BlockSampler

try:
    from sglang.srt.dllm.algorithm.base import DllmAlgorithm
except ImportError as error:
    raise BadInput("this algorithm runs inside SGLang, which is not installed here") from error

if not hasattr(DllmAlgorithm, "step"):
    raise BadInput("this version of SGLang has algorithms without step(); a version is needed whose DllmAlgorithm has it")


class AnyOrder(DllmAlgorithm):
    """Commits where an order says.

    Args:
        config: SGLang's `DllmConfig`; its `algorithm_config` holds options of `BlockSampler`, and `block_size` perhaps.

    Raises:
        BadInput: options that cannot be used.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        options = {name: value for name, value in config.algorithm_config.items() if name != "block_size"}
        if any(name not in OPTIONS for name in options):
            raise BadInput(
                f"the algorithm takes {', '.join(OPTIONS)} and block_size, not {', '.join(set(options) - set(OPTIONS))}"
            )
        self.blocks = BlockSampler(self.mask_id, options)

    def init_step_state(self, forward_batch: Any) -> list[Any]:
        """The state of each block before its first step."""
        return [self.blocks.start(tokens) for tokens in self._tokens(forward_batch)]

    def max_steps(self, block_size: int) -> int:
        """Steps within which every block is complete, and the pass in which its last tokens are read."""
        return (self.blocks.steps or block_size) + 1

    def step(self, forward_batch: Any, logits_output: Any, states: list[Any]) -> list[bool]:
        """One step of every block, in place.

        Returns:
            Which blocks were complete before, so that this pass has stored the keys and values of their final tokens.
        """
        tokens = self._tokens(forward_batch)
        done: list[bool] = (tokens != self.mask_id).all(dim=1).tolist()
        logits = getattr(logits_output, "full_logits", logits_output)
        if not isinstance(logits, Tensor):
            raise BadInput("SGLang passed no logits of the whole block (full_logits): start it without compact sampling states")
        states[:] = self.blocks.step(states, logits.view(*tokens.shape, -1))
        for row, state in zip(tokens, states, strict=True):
            row.copy_(state.tokens[0])  # in place: CUDA graphs read this tensor
        return done

    def _tokens(self, forward_batch: Any) -> Tensor:
        found: Tensor = forward_batch.input_ids.view(forward_batch.batch_size, self.block_size)
        return found


Algorithm = AnyOrder
