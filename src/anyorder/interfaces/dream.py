"""Dream's `diffusion_generate(...)` (arXiv 2508.15487): the same arguments and, with its own algorithms, the same tokens."""

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from anyorder.decoding.counts import CountRule
from anyorder.decoding.loop import decode
from anyorder.decoding.result import History
from anyorder.decoding.sampler import Sampler
from anyorder.decoding.timesteps import Ancestral, Timesteps
from anyorder.decoding.tokens import Sample, TokenRule, truncate
from anyorder.denoisers.base import Denoiser
from anyorder.errors import BadInput
from anyorder.interfaces.arguments import as_denoiser, find_order, number, temperature_of, token_rule, whole
from anyorder.interfaces.ends import find_ends, penalized
from anyorder.interfaces.prompts import Prompts, batch_of
from anyorder.orders.base import Order
from anyorder.orders.heuristics import confidence, entropy, margin, max_margin, random
from anyorder.orders.learned import LearnedOrder
from anyorder.parts import walk
from anyorder.prediction import Prediction
from anyorder.state import DecodeState

_ALGORITHMS = ("origin", "maskgit_plus", "topk_margin", "entropy")
_Shape = tuple[float, float, int | None]
"""Temperature, top-p and top-k."""

_AS_IT_IS: _Shape = (1.0, 1.0, None)
_SAME: dict[Any, str] = {confidence: "maskgit_plus", margin: "topk_margin", max_margin: "topk_margin", entropy: "entropy"}
"""Orders whose name is another one for an algorithm."""


@dataclass(frozen=True)
class DreamOutput:
    """sequences int64 (B, L); history, the tokens (B, L) after each step, or None if it was not requested. Both are in the
    form of the inputs."""

    sequences: Any
    history: tuple[Any, ...] | None = None


def diffusion_generate(
    model: Any,
    inputs: Prompts,
    *,
    attention_mask: Any = None,
    max_new_tokens: int | None = None,
    max_length: int | None = None,
    steps: int = 512,
    eps: float = 1e-3,
    temperature: float = 0.0,
    top_p: float | None = None,
    top_k: int | None = None,
    num_return_sequences: int = 1,
    alg: str = "origin",
    alg_temp: float | None = None,
    output_history: bool = False,
    return_dict_in_generate: bool = False,
    mask_token_id: int | None = None,
    order: Order | str | Path | None = None,
    seed: int = 0,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
    eos_penalty: float = 0.0,
) -> Any:
    """Fill the masks of prompts and continue them.

    The values of a `generation_config` are passed as arguments. Its hooks on tokens and logits are left out (an order sees the
    logits, and the history is returned). Three more things differ from the original. The mask itself is never produced. The
    number of tokens per step follows each sequence's own masks and not the mean of the batch, so that sequences do not
    influence each other. The logits of a position come from the last real token before it, so that padding may be on either
    side. Ties, such as those of a top-p that leaves one token at many positions, go to the leftmost position; the original does
    not define them.

    Args:
        model: Dream or any model with the same interface, or a denoiser of it (whose mask and shift are its own).
        inputs: int64 (B, P), or in any other form that `anyorder.generate` takes; masks among them are filled too.
        attention_mask: bool or int in the shape of the inputs, 0 at padding.
        max_new_tokens, max_length: the number of new tokens, or of all tokens with the prompt; the former takes precedence.
        steps, eps: number of timesteps, and the last of them; a step may be too small to unmask anything (`Timesteps`).
        temperature, top_p, top_k: of the tokens; a top_k of 0 keeps all. As in the original they also shape the probabilities
            that `alg` reads.
        num_return_sequences: how often each prompt is decoded; the results of a prompt are rows one after the other.
        alg: which masks go first: those of each at random with probability 1 - s / t ("origin"), or those whose token has the
            largest probability ("maskgit_plus"), margin ("topk_margin") or least entropy ("entropy").
        alg_temp: draw positions without replacement from softmax(score / alg_temp); 0 or None for the best positions. It has no
            effect on "origin".
        return_dict_in_generate: return a `DreamOutput`, with a history if `output_history` says so.
        mask_token_id: the mask, if neither the generation configuration nor the configuration names it.
        order: an order instead of `alg`, with as many tokens per step: an `Order`, a heuristic's name, or the folder of a
            policy. A heuristic given by name reads the probabilities after temperature, top-p and top-k, as
            `alg` does: "confidence", "margin" and "entropy" are "maskgit_plus", "topk_margin" and "entropy". A learned order
            reads the model's own, for which it was fitted, and so does a function.
        seed: of sampling and drawn positions; row i takes seed + i.
        eos_token_id, pad_token_id, eos_penalty: the end of a text, see `anyorder.generate`. The original never stops.

    Returns:
        int64 (B, P + new tokens), or the form of the inputs, see `anyorder.generate`; or a `DreamOutput`.

    Raises:
        BadInput: a length that is not given or leaves nothing to do, an unknown `alg` or order, steps, eps, temperatures or
            top_p out of range, no mask token.
    """
    if alg not in _ALGORITHMS:
        raise BadInput(f"alg {alg!r} is unknown: use one of {', '.join(_ALGORITHMS)}, or give an order")
    if eos_penalty and order is None and alg == "origin":
        raise BadInput('alg "origin" unmasks positions whatever their score, so eos_penalty has no effect: name another alg')
    whole("steps", steps, 1)
    if not 0 < number("eps", eps) < 1:
        raise BadInput(f"eps is {eps}; the last timestep lies in (0, 1)")
    if alg_temp is not None:
        number("alg_temp", alg_temp, " (the best positions)")
    token = token_rule(temperature, top_p, top_k)
    denoiser = as_denoiser(model, mask_token_id, shift=True)
    new = _new_tokens(inputs, max_new_tokens, max_length)
    batch = batch_of(inputs, attention_mask, denoiser, new=new, copies=num_return_sequences, what="the inputs")
    ends = find_ends(denoiser, eos_token_id, pad_token_id)
    shape = (temperature_of(temperature) or 1.0, 1.0 if top_p is None else top_p, top_k or None)
    count: CountRule = Timesteps(eps)
    if order is None and alg == "origin":
        where, count, alg_temp = random, Ancestral(eps), None
    else:
        where = _where(order, alg, token, shape, denoiser, drawn=bool(alg_temp))
    sampler = Sampler(penalized(where, ends, eos_penalty), count, token, steps=steps, noise=alg_temp or 0.0)
    history = History(batch.tokens) if output_history and return_dict_in_generate else None
    decoded = decode(
        denoiser, batch.tokens, sampler, seeds=seed, attention_mask=batch.attention_mask, ends=ends, on_step=history or ()
    )
    sequences = batch.unpad(decoded.tokens)
    if not return_dict_in_generate:
        return sequences
    if history is None:
        return DreamOutput(sequences)
    after = [batch.unpad(tokens) for tokens in history.tokens[1:]]
    return DreamOutput(sequences, (*after, *[sequences] * (steps - len(after))))


def _where(
    order: Order | str | Path | None, alg: str, token: TokenRule, shape: _Shape, denoiser: Denoiser, *, drawn: bool
) -> Order:
    """The order of an algorithm, or one's own; a heuristic that is given by name reads the probabilities as algorithms do."""
    if order is None:
        return _Algorithm(alg, token, shape, drawn)
    found = find_order(order, denoiser)
    if not isinstance(order, str) or any(isinstance(part, LearnedOrder) for part in walk(found)):
        return found
    if found in _SAME:
        return _Algorithm(_SAME[found], token, shape, drawn)
    return found if shape == _AS_IT_IS else _Shaped(found, shape)


def _new_tokens(inputs: Any, max_new_tokens: int | None, max_length: int | None) -> int:
    if max_new_tokens is not None:
        return whole("max_new_tokens", max_new_tokens, 0)
    if max_length is None:
        raise BadInput("the number of new tokens is missing: give max_new_tokens or max_length")
    length = _length(inputs)
    if whole("max_length", max_length, 0) < length:
        raise BadInput(f"max_length is {max_length}, and the inputs are {length} long already")
    return max_length - length


def _length(inputs: Any) -> int:
    """Tokens of the longest of the inputs."""
    inputs = inputs["input_ids"] if isinstance(inputs, Mapping) and "input_ids" in inputs else inputs
    if hasattr(inputs, "shape"):
        return int(inputs.shape[-1])
    rows = list(inputs) if isinstance(inputs, Sequence) else []
    return max((len(row) for row in rows if isinstance(row, Sized)), default=len(rows))


@dataclass(frozen=True)
class _Shaped:
    """An order that reads the probabilities that tokens are drawn from, after temperature, top-p and top-k.

    Args:
        order: where.
        shape: temperature, top-p and top-k.
    """

    order: Order
    shape: _Shape

    def __call__(self, state: DecodeState, prediction: Prediction) -> Tensor:
        shaped = prediction.with_logits(truncate(prediction.logits, *self.shape))
        return self.order(state, shaped)


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
    shape: _Shape
    drawn: bool

    def __call__(self, state: DecodeState, prediction: Prediction) -> Tensor:
        if self.alg == "maskgit_plus" and isinstance(self.token, Sample):
            assert prediction.candidate_log_probs is not None
            return self._probability(prediction, prediction.candidate_log_probs)
        shaped = prediction.with_logits(truncate(prediction.logits, *self.shape))
        if self.alg == "maskgit_plus":
            return self._probability(prediction, shaped.top_log_probs[:, 0])
        return max_margin(state, shaped) if self.alg == "topk_margin" else entropy(state, shaped)

    def _probability(self, prediction: Prediction, log_probs: Tensor) -> Tensor:
        return prediction.scatter(log_probs.exp() if self.drawn else log_probs)
