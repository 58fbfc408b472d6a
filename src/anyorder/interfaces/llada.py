"""LLaDA's `generate(...)` (arXiv 2502.09992): its arguments and, with its own remasking, the same tokens."""

from pathlib import Path

import torch
from torch import Tensor, nn

from anyorder.decoding.counts import EvenBlocks
from anyorder.decoding.loop import decode
from anyorder.decoding.sampler import Sampler
from anyorder.decoding.tokens import Argmax, Sample, TokenRule
from anyorder.denoisers.base import Denoiser, DenoiserOutput
from anyorder.errors import BadInput
from anyorder.interfaces.arguments import as_denoiser, find_order, with_new_tokens
from anyorder.orders.base import Order
from anyorder.orders.heuristics import confidence, random
from anyorder.prediction import Prediction
from anyorder.state import DecodeState

MASK_ID = 126336
_REMASKING: dict[str, Order] = {"low_confidence": confidence, "random": random}


@torch.no_grad()
def generate(
    model: nn.Module,
    prompt: Tensor,
    attention_mask: Tensor | None = None,
    steps: int = 128,
    gen_length: int = 128,
    block_length: int = 128,
    temperature: float = 0.0,
    cfg_scale: float = 0.0,
    remasking: str = "low_confidence",
    mask_id: int | None = None,
    *,
    order: Order | str | Path | None = None,
    seed: int = 0,
) -> Tensor:
    """Continue prompts with `gen_length` tokens.

    Args:
        model: LLaDA or any model with the same interface, or a denoiser of it.
        prompt: int64 (B, P); padding on either side is marked in the attention mask.
        attention_mask: bool or int (B, P), 0 at padding.
        steps, gen_length, block_length, temperature, remasking: as in LLaDA's `generate`. Steps and tokens are split evenly
            among the blocks.
        cfg_scale: scale of classifier-free guidance, 0 for none: a second forward pass sees the prompt masked, see `Guided`.
        mask_id: the mask; by default the denoiser's or configuration's, and 126336 if that names none.
        order: an order instead of the remasking: an `Order` such as a `LearnedOrder`, a heuristic's name, or the folder of a
            policy.
        seed: of sampling and random orders; row i takes seed + i.

    Returns:
        int64 (B, P + gen_length): the prompts and what follows them. (LLaDA's argmax may be the mask itself; ours never is. Its
        later options `logits_eos_inf` and `confidence_eos_eot_inf` are a denoiser's `forbidden` and an order here.)

    Raises:
        BadInput: blocks that do not divide the length, steps that are not divisible by the blocks, an unknown remasking, a
            negative cfg_scale, a mask_id that is not the denoiser's.
    """
    if gen_length % block_length:
        raise BadInput(f"gen_length {gen_length} is not a multiple of block_length {block_length}")
    blocks = gen_length // block_length
    if steps % blocks:
        raise BadInput(f"steps is {steps}; it must be a multiple of {blocks}, the number of blocks")
    if order is None and remasking not in _REMASKING:
        raise BadInput(f"remasking {remasking!r} is unknown: use one of {', '.join(_REMASKING)}, or give an order")
    if cfg_scale < 0:
        raise BadInput(f"cfg_scale is {cfg_scale}; it must be 0 (no guidance) or above")
    named = getattr(getattr(model, "config", None), "mask_token_id", None)
    if mask_id is None and named is None and not isinstance(model, Denoiser):
        mask_id = MASK_ID
    denoiser = as_denoiser(model, mask_id)
    tokens, attention_mask = with_new_tokens(prompt, attention_mask, gen_length, denoiser.mask_token_id)
    sampled = temperature > 0
    token: TokenRule = Sample(temperature) if sampled else Argmax()
    if order is not None:
        where = find_order(order, denoiser)
    elif sampled and remasking == "low_confidence":
        where = drawn_confidence
    else:
        where = _REMASKING[remasking]
    count = EvenBlocks(block_length, steps // blocks)
    sampler = Sampler(where, count, token, steps=steps, block_length=block_length)
    guided = Guided(denoiser, cfg_scale, prompt.shape[1]) if cfg_scale else denoiser
    return decode(guided, tokens, sampler, seeds=seed, attention_mask=attention_mask).tokens


class Guided:
    """A denoiser under classifier-free guidance, as LLaDA does it: u + (scale + 1) (c - u), where c are its logits and u its
    logits when the prompt is masked. One forward pass costs two.

    Args:
        denoiser: what is guided.
        scale: 0 for none.
        prompt: number of columns of the prompt, at the start.
    """

    def __init__(self, denoiser: Denoiser, scale: float, prompt: int) -> None:
        self.denoiser, self.scale, self.prompt = denoiser, scale, prompt
        self.mask_token_id, self.vocab_size = denoiser.mask_token_id, denoiser.vocab_size
        self.hidden_size = denoiser.hidden_size

    def __call__(self, tokens: Tensor, attention_mask: Tensor | None = None, positions: Tensor | None = None) -> DenoiserOutput:
        """See `Denoiser`. Tokens that are never produced keep a logit of minus infinity."""
        logits, hidden = self.denoiser(tokens, attention_mask, positions)
        blind = tokens.clone()
        blind[:, : self.prompt] = self.mask_token_id
        without, _ = self.denoiser(blind, attention_mask, positions)
        guided = without + (self.scale + 1) * (logits - without)
        return DenoiserOutput(torch.where(logits == -torch.inf, logits, guided), hidden)


def drawn_confidence(state: DecodeState, prediction: Prediction) -> Tensor:
    """Log-probability of the token that is about to be committed, as LLaDA ranks it under sampling."""
    assert prediction.candidates is not None
    return prediction.scatter(prediction.log_probs_of(prediction.candidates))
