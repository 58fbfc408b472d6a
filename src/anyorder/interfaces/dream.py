"""Dream's `diffusion_generate(...)` (arXiv 2508.15487): the same arguments and, with its own algorithms, the same tokens."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from anyorder.decoding.counts import Ancestral, CountRule, Timesteps
from anyorder.decoding.loop import decode
from anyorder.decoding.result import History
from anyorder.decoding.sampler import Sampler
from anyorder.decoding.tokens import Sample, TokenRule, truncate
from anyorder.errors import BadInput
from anyorder.interfaces.arguments import as_denoiser, find_order, token_rule, with_new_tokens
from anyorder.orders.base import Order
from anyorder.orders.heuristics import entropy, margin, random
from anyorder.prediction import Prediction
from anyorder.state import DecodeState

_ALGORITHMS = ("origin", "maskgit_plus", "topk_margin", "entropy")


@dataclass(frozen=True)
class DreamOutput:
    """sequences int64 (B, L); history, the tokens (B, L) after each step, or None if it was not requested."""

    sequences: Tensor
    history: tuple[Tensor, ...] | None = None


def diffusion_generate(
    model: Any,
    inputs: Tensor,
    *,
    attention_mask: Tensor | None = None,
    max_new_tokens: int | None = None,
    max_length: int | None = None,
    steps: int = 512,
    eps: float = 1e-3,
    temperature: float = 0.0,
    top_p: float | None = None,
    top_k: int | None = None,
    alg: str = "origin",
    alg_temp: float | None = None,
    output_history: bool = False,
    return_dict_in_generate: bool = False,
    mask_token_id: int | None = None,
    order: Order | str | Path | None = None,
    seed: int = 0,
) -> Tensor | DreamOutput:
    """Fill the masks of prompts and continue them.

    The values of a `generation_config` are passed as arguments. Its hooks on tokens and logits are left out (an order sees the
    logits, and the history is returned). Three more things differ from the original. The mask itself is never produced. The
    number of tokens per step follows each sequence's own masks and not the mean of the batch, so that sequences do not
    influence each other. The logits of a position come from the last real token before it, so that padding may be on either
    side. Ties, such as those of a top-p that leaves one token at many positions, go to the leftmost position; the original does
    not define them.

    Args:
        model: Dream or any model with the same interface, or a denoiser of it (whose mask and shift are its own).
        inputs: int64 (B, P); masks among them are filled too.
        attention_mask: bool or int (B, P), 0 at padding.
        max_new_tokens, max_length: the number of new tokens, or of all tokens with the prompt; the former takes precedence.
        steps, eps: number of timesteps, and the last of them; a step may be too small to unmask anything (`Timesteps`).
        temperature, top_p, top_k: of the tokens. As in the original they also shape the probabilities that `alg` reads.
        alg: which masks go first: those of each at random with probability 1 - s / t ("origin"), or those whose token has the
            largest probability ("maskgit_plus"), margin ("topk_margin") or least entropy ("entropy").
        alg_temp: draw positions without replacement from softmax(score / alg_temp); 0 or None for the best positions. It has no
            effect on "origin".
        return_dict_in_generate: return a `DreamOutput`, with a history if `output_history` says so.
        mask_token_id: the mask, if neither the generation configuration nor the configuration names it.
        order: an order instead of `alg`, with as many tokens per step: an `Order`, a heuristic's name, or the folder of a
            policy.
        seed: of sampling and drawn positions; row i takes seed + i.

    Returns:
        int64 (B, P + new tokens), or a `DreamOutput`.

    Raises:
        BadInput: a length that is not given or leaves nothing to do, an unknown `alg` or order, steps, eps, temperatures or
            top_p out of range, no mask token.
    """
    if alg not in _ALGORITHMS:
        raise BadInput(f"alg {alg!r} is unknown: use one of {', '.join(_ALGORITHMS)}, or give an order")
    if steps < 1 or not 0 < eps < 1:
        raise BadInput(f"steps is {steps} and eps is {eps}; at least one step and an eps in (0, 1) are needed")
    if alg_temp is not None and alg_temp < 0:
        raise BadInput(f"alg_temp is {alg_temp}; it must be 0 (the best positions) or above")
    token = token_rule(temperature, top_p, top_k)
    denoiser = as_denoiser(model, mask_token_id, shift=True)
    new = _new_tokens(inputs, max_new_tokens, max_length)
    tokens, attention_mask = with_new_tokens(inputs, attention_mask, new, denoiser.mask_token_id)
    if not (tokens == denoiser.mask_token_id).any():
        raise BadInput("there is nothing to generate: no new tokens are requested, and the inputs hold no mask")
    count: CountRule = Timesteps(eps)
    if order is not None:
        where = find_order(order, denoiser)
    elif alg == "origin":
        where, count, alg_temp = random, Ancestral(eps), None
    else:
        where = _Algorithm(alg, token, (temperature or 1.0, top_p or 1.0, top_k), drawn=bool(alg_temp))
    sampler = Sampler(where, count, token, steps=steps, noise=alg_temp or 0.0)
    history = History(tokens) if output_history and return_dict_in_generate else None
    decoded = decode(denoiser, tokens, sampler, seeds=seed, attention_mask=attention_mask, on_step=history or ())
    if not return_dict_in_generate:
        return decoded.tokens
    if history is None:
        return DreamOutput(decoded.tokens)
    after = history.tokens[1:]
    return DreamOutput(decoded.tokens, (*after, *[decoded.tokens] * (steps - len(after))))


def _new_tokens(inputs: Tensor, max_new_tokens: int | None, max_length: int | None) -> int:
    if max_new_tokens is not None:
        return max_new_tokens
    if max_length is None:
        raise BadInput("the number of new tokens is missing: give max_new_tokens or max_length")
    if max_length < inputs.shape[-1]:
        raise BadInput(f"max_length is {max_length}, and the inputs are {inputs.shape[-1]} long already")
    return max_length - inputs.shape[-1]


@dataclass(frozen=True)
class _Algorithm:
    """Dream's scores: read off the probabilities that tokens are drawn from, after temperature, top-p and top-k.

    Args:
        alg: one of the names above, but "origin".
        token: draws the tokens.
        shape: temperature, top-p and top-k.
        drawn: positions are drawn, so that the scale of the scores counts. Otherwise the logarithm of the probability gives the
            same ranking without the ties of probabilities that round to 1.
    """

    alg: str
    token: TokenRule
    shape: tuple[float, float, int | None]
    drawn: bool

    def __call__(self, state: DecodeState, prediction: Prediction) -> Tensor:
        if self.alg == "maskgit_plus" and isinstance(self.token, Sample):
            assert prediction.candidate_log_probs is not None
            return self._probability(prediction, prediction.candidate_log_probs)
        shaped = prediction.with_logits(truncate(prediction.logits, *self.shape))
        if self.alg == "maskgit_plus":
            return self._probability(prediction, shaped.top_log_probs[:, 0])
        return margin(state, shaped) if self.alg == "topk_margin" else entropy(state, shaped)

    def _probability(self, prediction: Prediction, log_probs: Tensor) -> Tensor:
        return prediction.scatter(log_probs.exp() if self.drawn else log_probs)
