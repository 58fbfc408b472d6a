"""ReMDM (arXiv 2503.00307): a reverse process in which committed tokens are masked again with a small probability."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from anyorder.decoding.counts import CountRule
from anyorder.decoding.published_remaskers import Forgiving
from anyorder.errors import BadInput, check_number
from anyorder.noise import Purpose
from anyorder.prediction import Prediction
from anyorder.registry import REMASKERS
from anyorder.state import DecodeState

_ROUNDING = 1e-9

SCHEDULES = {"cap": 0.008, "rescale": 0.015, "conf": 1.0, "loop": 0.02}
"""The schedules of the paper, and the `eta` with which each was published."""


@REMASKERS.register("remdm")
@dataclass(frozen=True)
class ReMDM(Forgiving):
    """Each committed token is remasked with probability sigma, by one of the schedules of ReMDM (arXiv 2503.00307, section 4).

    With alpha_t = 1 - t at T equal steps from t = 1 to s = 0, and sigma_max = min(1, (1 - alpha_s) / alpha_t) (eq. 7), sigma is

    - `cap`: min(eta, sigma_max)
    - `rescale`: eta * sigma_max
    - `conf`: eta * sigma_max * softmax(-psi) over the committed tokens, psi the probability with which each was committed
    - `loop`: 0 until alpha has reached `alpha_on` at t = `t_on`, then min(eta, sigma_max) while alpha stays there until
      `t_off`, and 0 while the rest is unmasked

    Without another count rule, each masked position is unmasked with probability
    (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t), whatever its score (`ReMDMCount`), which makes it the published sampler
    with `token="sample"`. With a rule such as `linear` the number of masked positions follows the schedule instead, and the
    order decides. All steps are used, also after the sequence is complete.
    """

    schedule: str = field(default="cap", metadata={"help": "cap, rescale, conf or loop"})
    eta: float | None = field(default=None, metadata={"help": "strength; by default as published, .008, .015, 1 and .02"})
    t_on: float = field(default=0.55, metadata={"help": "of loop: the time at which the loop starts"})
    t_off: float = field(default=0.05, metadata={"help": "of loop: the time at which it ends"})
    alpha_on: float = field(default=0.9, metadata={"help": "of loop: the share that is unmasked in it"})

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise BadInput(f"schedule is {self.schedule!r}; it must be one of {', '.join(SCHEDULES)}")
        if self.eta is not None:
            check_number("eta", self.eta, 0, 1)
        check_number("alpha_on", self.alpha_on, above=0, most=1)
        for name in ("t_on", "t_off"):
            check_number(name, getattr(self, name), 0, 1)
        if not self.t_off <= self.t_on < 1 or self.alpha_on == 1:
            said = f"t_off is {self.t_off}, t_on {self.t_on} and alpha_on {self.alpha_on}"
            raise BadInput(f"{said}; t_off must be at most t_on, and t_on and alpha_on below 1")

    @property
    def usual_count(self) -> CountRule:
        """See `Remasker`."""
        return ReMDMCount(self)

    def alphas(self, state: DecodeState) -> tuple[Tensor, Tensor]:
        """The shares alpha_t and alpha_s that are unmasked before and after each row's step, float64 (B,)."""
        steps = state.steps.double()
        times = 1 - state.step / steps, 1 - (state.step + 1) / steps
        first, last = self._phases(state)
        rising, falling = self.alpha_on / (1 - self.t_on), (1 - self.alpha_on) / (self.t_off or 1.0)
        found = []
        for t in times:
            loop = torch.where(first, (1 - t) * rising, torch.where(last, 1 - t * falling, self.alpha_on))
            found.append(loop.clamp(max=1.0) if self.schedule == "loop" else 1 - t)
        return found[0], found[1]

    def strength(self, state: DecodeState) -> Tensor:
        """sigma of each row's step, float64 (B,), before `conf` divides it among the tokens."""
        eta = SCHEDULES[self.schedule] if self.eta is None else self.eta
        alpha_t, alpha_s = self.alphas(state)
        most = ((1 - alpha_s) / alpha_t.clamp(min=1e-12)).clamp(max=1.0)
        sigma = eta * most if self.schedule in ("rescale", "conf") else most.clamp(max=eta)
        first, last = self._phases(state)
        return sigma.masked_fill(first | last, 0.0)

    def remask(self, state: DecodeState, prediction: Prediction) -> Tensor:
        """See `Remasker`."""
        committed = state.committed
        sigma = self.strength(state)[:, None]
        if self.schedule == "conf":
            doubt = (-state.token_log_probs.double().exp()).masked_fill(~committed, -torch.inf)
            sigma = sigma * doubt.softmax(dim=1).nan_to_num(nan=0.0)  # NaN where nothing is committed
        return committed & (state.uniform(Purpose.REMASK) < sigma)

    def over(self, before: DecodeState, after: DecodeState) -> Tensor:
        """See `Remasker`."""
        _, last = self._phases(after)
        return after.finished & (last | (after.step >= after.steps - 1))

    def _phases(self, state: DecodeState) -> tuple[Tensor, Tensor]:
        """Whether a row's step is of the first and of the last phase of `loop`, in which nothing is remasked, bool (B,)."""
        t = 1 - state.step / state.steps.double()
        looping = torch.full_like(state.finished, self.schedule == "loop")
        return looping & (t > self.t_on + _ROUNDING), looping & (t <= self.t_off + _ROUNDING)


@dataclass(frozen=True)
class ReMDMCount(CountRule):
    """Each masked position with probability (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t), whatever its score; sigma is 0
    under `conf`, where a masked position has no share of it. It may select no position in a step."""

    remasker: ReMDM = ReMDM()

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        alpha_t, alpha_s = self.remasker.alphas(state)
        sigma = 0.0 if self.remasker.schedule == "conf" else self.remasker.strength(state)
        unmasked = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t).clamp(min=1e-12)
        return (state.uniform(Purpose.UNMASK) < unmasked[:, None]) & (scores > -torch.inf)
