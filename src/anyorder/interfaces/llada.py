"""LLaDA's `generate(...)` (arXiv 2502.09992): the same arguments and, with its own remasking, the same tokens."""

from pathlib import Path

import torch
from torch import Tensor, nn

from anyorder.decoding.blocks import EvenBlocks, InBlocks
from anyorder.decoding.loop import Decoder, decode
from anyorder.decoding.tokens import Argmax, Sample, TokenRule
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.errors import BadInput
from anyorder.interfaces.arguments import find_order, with_new_tokens
from anyorder.orders.base import Order, State
from anyorder.orders.heuristics import HEURISTICS

MASK_ID = 126336
_REMASKING = {"low_confidence": "confidence", "random": "random"}


@torch.no_grad()
def generate(
    model: nn.Module,
    prompt: Tensor,
    attention_mask: Tensor | None = None,
    steps: int = 128,
    gen_length: int = 128,
    block_length: int = 128,
    temperature: float = 0.0,
    remasking: str = "low_confidence",
    mask_id: int = MASK_ID,
    *,
    order: Order | str | Path | None = None,
    seed: int = 0,
) -> Tensor:
    """Continue prompts with `gen_length` tokens.

    Args:
        model: LLaDA or any model with the same interface, or a `HuggingFaceDenoiser` of it.
        prompt: int64 (B, P); padding on either side is marked in the attention mask.
        attention_mask: bool or int (B, P), 0 at padding.
        steps, gen_length, block_length, temperature, remasking, mask_id: as in LLaDA's `generate`. Steps and tokens are split
            evenly among the blocks.
        order: an order in place of the remasking: an `Order` such as a `LearnedOrder`, a heuristic's name, or the folder of a
            policy.
        seed: of sampling and random orders; row i takes seed + i.

    Returns:
        int64 (B, P + gen_length): the prompts and what follows them. (LLaDA's argmax may be the mask itself; ours never is.)

    Raises:
        BadInput: blocks that do not divide the length, steps that do not divide among the blocks, an unknown remasking.
    """
    if gen_length % block_length:
        raise BadInput(f"gen_length {gen_length} is not a multiple of block_length {block_length}")
    blocks = gen_length // block_length
    if steps % blocks:
        raise BadInput(f"steps {steps} do not divide among {blocks} blocks")
    if order is None and remasking not in _REMASKING:
        raise BadInput(f"remasking {remasking!r} is unknown: use one of {', '.join(_REMASKING)}, or give an order")
    denoiser = model if isinstance(model, HuggingFaceDenoiser) else HuggingFaceDenoiser(model, mask_id)
    tokens, attention_mask = with_new_tokens(prompt, attention_mask, gen_length, denoiser.mask_token_id)
    sampled = temperature > 0
    token: TokenRule = Sample(temperature) if sampled else Argmax()
    if order is not None:
        where = find_order(order, denoiser)
    elif sampled and remasking == "low_confidence":
        where = _SampledConfidence(token)
    else:
        where = HEURISTICS[_REMASKING[remasking]]
    decoder = Decoder(InBlocks(where, block_length), EvenBlocks(block_length, steps // blocks), token, steps=steps)
    return decode(denoiser, tokens, decoder, seeds=seed, attention_mask=attention_mask).tokens


class _SampledConfidence:
    """Probability of the token that is about to be committed, as LLaDA ranks it under sampling."""

    def __init__(self, token: TokenRule) -> None:
        self.token = token

    def __call__(self, state: State) -> Tensor:
        tokens, _ = self.token(state)
        log_p = torch.log_softmax(state.logits.float(), dim=-1).gather(1, tokens[:, None])[:, 0]
        return state.scatter(log_p)
