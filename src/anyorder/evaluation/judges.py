"""Judges of samples that take a model: the pseudo-likelihood of a masked model, the perplexity of a causal one, predicted
structures.

A judge is a function of a task, instances and completed sequences (N, L) that gives a number per sample, see `evaluate`.
"""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anyorder.denoisers.base import Denoiser, attention_of, default_device
from anyorder.denoisers.causal import CausalModel
from anyorder.errors import BadInput
from anyorder.evaluation.evaluate import Judge
from anyorder.evaluation.structure import ESMFOLD, ESMFold, structure_judges
from anyorder.tasks.antibody import chain_of
from anyorder.tasks.base import Instances, Task
from anyorder.zoo.fetch import fetched


@dataclass(frozen=True)
class PseudoLikelihood:
    """Mean log p(x_i | the rest) in nats per generated symbol, float (N,); larger is more natural to the model.

    Exact pseudo-likelihood hides one position at a time and costs L forwards. With `folds` = k, every k-th generated position
    is hidden at once, which costs k forwards; the answer is a little lower, the more so the smaller k.

    Args:
        denoiser: the masked model that judges; judging the samples of a model by the model itself rewards what it likes.
        folds: forwards per sequence.
        batch_size: sequences at a time.
    """

    denoiser: Denoiser
    folds: int = 10
    batch_size: int = 32

    @torch.no_grad()
    def __call__(self, task: Task, instances: Instances, tokens: Tensor) -> np.ndarray:
        found = []
        generated = task.generated(instances, tokens)
        for start in range(0, len(tokens), self.batch_size):
            rows = slice(start, start + self.batch_size)
            found.append(self._batch(tokens[rows], generated[rows]))
        return np.concatenate(found)

    def _batch(self, tokens: Tensor, generated: Tensor) -> np.ndarray:
        device = next(self.denoiser.parameters()).device if isinstance(self.denoiser, nn.Module) else tokens.device
        tokens, generated = tokens.to(device), generated.to(device)
        fold = torch.where(generated, (generated.long().cumsum(dim=1) - 1) % self.folds, -1)
        total = torch.zeros(len(tokens), device=device)
        for number in range(self.folds):
            hidden = fold == number
            if not hidden.any():
                continue
            states = tokens.masked_fill(hidden, self.denoiser.mask_token_id)
            logits, _ = self.denoiser(states, attention_of(self.denoiser, states), hidden)
            log_p = torch.log_softmax(logits.float(), dim=-1).gather(1, tokens[hidden][:, None])[:, 0]
            total += torch.zeros(tokens.shape, device=device).masked_scatter(hidden, log_p).sum(dim=1)
        mean: np.ndarray = (total / generated.sum(dim=1).clamp(min=1)).cpu().numpy()
        return mean


QUANTISED = ("smollm2",)
"""Causal judges that `anyorder fetch` obtains."""


class CausalPerplexity:
    """Negative log-likelihood of the text under a causal model of Hugging Face, in nats per token, float (N,).

    `exp` of its mean is the generative perplexity. Low alone is no praise: text that repeats itself has it too, so token
    entropy stands beside it.

    Args:
        name, device: see `CausalModel`; the name may also be `smollm2`, once that was fetched.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        self.judge = CausalModel(f"{fetched(name)}#model.gguf" if name in QUANTISED else name, device)

    def __call__(self, task: Task, instances: Instances, tokens: Tensor) -> np.ndarray:
        return self.judge.nats(task.texts(instances, tokens))


class PredictedError:
    """Error of the structure that IgFold (arXiv 2204.06035) predicts, by its own estimate: mean over residues in Angstrom,
    float (N,), nan for what is no antibody domain; small is good. About 11 s per sequence and four models on one core.

    IgFold is free for non-commercial use only: the extra `igfold-noncommercial`, never a dependency.

    Args:
        models: how many of its four models.
    """

    def __init__(self, models: int = 4) -> None:
        os.environ.setdefault("ANTIBERTY_WEIGHTS_DIR", str(fetched("antiberty")))
        try:
            from igfold import IgFoldRunner
        except ImportError as error:
            raise BadInput(
                "this judge needs IgFold, free for non-commercial use only: pip install 'anyorder[igfold-noncommercial]'"
            ) from error
        self.runner: Any = IgFoldRunner(num_models=models, verbose=False)

    def __call__(self, task: Task, instances: Instances, tokens: Tensor) -> np.ndarray:
        return np.array([self._angstrom(text) for text in task.texts(instances, tokens)])

    def _angstrom(self, text: str) -> float:
        chain = chain_of(text)
        if chain is None:
            return float("nan")
        return float(self.runner.predict([{chain: text}])[0].prmsd.mean())


def make_judges(specs: list[str], denoiser: Denoiser) -> dict[str, Judge]:
    """Judges from `pseudo_likelihood[:FOLDS]`, `perplexity:MODEL`, `igfold[:MODELS]` and `esmfold[:MODEL]`, by the name
    of their column; `esmfold` has four, see `structure_judges`.

    Raises:
        BadInput: an unknown judge, or one whose model or package is not here.
    """
    judges: dict[str, Judge] = {}
    for spec in specs:
        kind, _, value = spec.partition(":")
        if kind == "pseudo_likelihood" and (not value or (value.isdigit() and int(value) > 0)):
            judges["pseudo-likelihood"] = PseudoLikelihood(denoiser, int(value or 10))
        elif kind == "perplexity" and value:
            judges["nats per token"] = CausalPerplexity(value, default_device())
        elif kind == "igfold" and value in ("", "1", "2", "3", "4"):
            judges["structure error"] = PredictedError(int(value or 4))
        elif kind == "esmfold":
            predictor = ESMFold(value or ESMFOLD)
            predictor.check()  # say now that it is missing, not after the first order was decoded
            judges |= structure_judges(predictor)
        else:
            known = "pseudo_likelihood[:FOLDS], perplexity:MODEL, igfold[:MODELS] or esmfold[:MODEL]"
            raise BadInput(f"judge {spec!r} is unknown: use {known}")
    return judges
