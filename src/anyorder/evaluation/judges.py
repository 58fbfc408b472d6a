"""Judges: outside models that rate finished samples. The pseudo-likelihood under a masked model, the perplexity under a causal
one, predicted structures.

A judge is a function of a task, instances and completed sequences (N, L) that returns a number per sample, see `evaluate`.
`JUDGES` registers such functions, or dataclasses with a method `columns(denoiser)` that returns judges by the name of their
column. The fields of such a dataclass are the arguments that can be given as text.
"""

import os
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anyorder.causal import CausalModel
from anyorder.denoisers.base import Denoiser, at_positions, attention_of, default_device, device_of, evaluating
from anyorder.errors import BadInput
from anyorder.evaluation.comparison import Judge
from anyorder.evaluation.structure import ESMFOLD, ESMFold, structure_judges
from anyorder.registry import JUDGES
from anyorder.tasks.antibody import chain_of
from anyorder.tasks.base import Instances, Task
from anyorder.zoo.fetch import causal_source, fetched


@dataclass(frozen=True)
class PseudoLikelihood:
    """Mean log p(x_i | the rest) in nats per generated symbol, float (N,); larger is more natural to the model.

    Exact pseudo-likelihood hides one position at a time and costs L forward passes. With `folds` = k, every k-th generated
    position is hidden at once, which costs k forward passes and gives a slightly lower value, the lower the smaller k.

    Args:
        denoiser: the masked model that judges. It overrates its own samples.
        folds: forward passes per sequence.
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
        device = device_of(self.denoiser, tokens.device)
        tokens, generated = tokens.to(device), generated.to(device)
        fold = torch.where(generated, (generated.long().cumsum(dim=1) - 1) % self.folds, -1)
        total = torch.zeros(len(tokens), dtype=torch.float32, device=device)
        for number in range(self.folds):
            hidden = fold == number
            if not hidden.any():
                continue
            states = tokens.masked_fill(hidden, self.denoiser.mask_token_id)
            with evaluating(self.denoiser):
                logits, _ = at_positions(self.denoiser(states, attention_of(self.denoiser, states), hidden), hidden)
            log_p = torch.log_softmax(logits.float(), dim=-1).gather(1, tokens[hidden][:, None])[:, 0]
            total += torch.zeros_like(tokens, dtype=torch.float32).masked_scatter(hidden, log_p).sum(dim=1)
        count = generated.sum(dim=1)
        mean: np.ndarray = torch.where(count > 0, total / count.clamp(min=1), torch.nan).cpu().numpy()
        return mean


class CausalPerplexity:
    """Negative log-likelihood of the text under a causal model of Hugging Face, in nats per token, float (N,).

    `exp` of its mean is the generative perplexity. Repetitive text has a low value too, so compare token entropy as well.

    Args:
        name, device, trust_remote_code: see `CausalModel`; the name may also be `smollm2`, once that was fetched.
    """

    def __init__(self, name: str, device: str = "cpu", *, trust_remote_code: bool = False) -> None:
        self.judge = CausalModel(causal_source(name), device, trust_remote_code=trust_remote_code)

    def __call__(self, task: Task, instances: Instances, tokens: Tensor) -> np.ndarray:
        return self.judge.nats(task.texts(instances, tokens))


class PredictedError:
    """Error of the structure that IgFold (arXiv 2204.06035) predicts, by its own estimate: mean over residues in Angstrom,
    float (N,), nan for what is not an antibody domain; small is good. About 11 s per sequence and four models on one core.

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


class JudgeColumns(ABC):
    """A registered judge with arguments: base class of frozen dataclasses."""

    @abstractmethod
    def columns(self, denoiser: Denoiser) -> dict[str, Judge]:
        """Judges by the name of their column in tables.

        Raises:
            BadInput: the judge's model or package is not available.
        """


@JUDGES.register("pseudo_likelihood")
@dataclass(frozen=True)
class PseudoLikelihoodColumns(JudgeColumns):
    """Mean log-probability of each symbol given the rest, under the denoiser itself."""

    folds: int = field(default=10, metadata={"help": "forward passes per sequence"})

    def __post_init__(self) -> None:
        if self.folds < 1:
            raise ValueError(f"folds is {self.folds}; at least one forward pass is needed")

    def columns(self, denoiser: Denoiser) -> dict[str, Judge]:
        """See `JudgeColumns`."""
        return {"pseudo-likelihood": PseudoLikelihood(denoiser, self.folds)}


@JUDGES.register("perplexity")
@dataclass(frozen=True)
class PerplexityColumns(JudgeColumns):
    """Nats per token under a causal language model."""

    model: str = field(metadata={"help": "hub id or folder of a causal model, or a fetched name"})
    trust_remote_code: bool = field(default=False, metadata={"help": "run the code that comes with the model; read it first"})

    def columns(self, denoiser: Denoiser) -> dict[str, Judge]:
        """See `JudgeColumns`."""
        judge = CausalPerplexity(self.model, default_device(), trust_remote_code=self.trust_remote_code)
        return {"nats per token": judge}


@JUDGES.register("igfold")
@dataclass(frozen=True)
class IgFoldColumns(JudgeColumns):
    """Predicted error of antibody structures, in Angstrom."""

    models: int = field(default=4, metadata={"help": "how many of its four models"})

    def __post_init__(self) -> None:
        if not 1 <= self.models <= 4:
            raise ValueError(f"models is {self.models}; IgFold has 1 to 4")

    def columns(self, denoiser: Denoiser) -> dict[str, Judge]:
        """See `JudgeColumns`."""
        return {"structure error": PredictedError(self.models)}


@JUDGES.register("esmfold")
@dataclass(frozen=True)
class ESMFoldColumns(JudgeColumns):
    """Confidence of ESMFold in predicted structures, four columns."""

    model: str = field(default=ESMFOLD, metadata={"help": "hub id or folder of a structure predictor"})

    def columns(self, denoiser: Denoiser) -> dict[str, Judge]:
        """See `JudgeColumns`. A missing model is reported now, not after the first decoding."""
        predictor = ESMFold(self.model)
        predictor.check()
        return structure_judges(predictor)


def make_judges(specs: list[str], denoiser: Denoiser) -> dict[str, Judge]:
    """Judges from text such as `pseudo_likelihood:10`, by the name of their column; see `Registry.make`. Where two judges have
    columns of one name, their text stands behind it: `nats per token (perplexity:MODEL)`.

    Raises:
        BadInput: an unknown judge, one that is given twice, an argument that cannot be used, or a model or package that is not
            available.
    """
    made: dict[str, dict[str, Judge]] = {}
    for spec in specs:
        if spec in made:
            raise BadInput(f"the judge {spec} is given twice: leave one of them out")
        judge = JUDGES.make(spec)
        made[spec] = judge.columns(denoiser) if hasattr(judge, "columns") else {spec: judge}
    shared = Counter(name for columns in made.values() for name in columns)
    return {
        f"{name} ({spec})" if shared[name] > 1 else name: judge
        for spec, columns in made.items()
        for name, judge in columns.items()
    }
