"""Orders that need no training. Scores, larger = sooner; p is the denoiser's distribution at a position.

| name | score | source |
|---|---|---|
| random | uniform noise | the standard reverse process (arXiv 2606.00295, eq. 1) |
| left_to_right | minus the position | autoregressive order |
| right_to_left | the position | the order of written sums |
| confidence | log p(drawn token) | LLaDA (arXiv 2502.09992); arXiv 2606.00295, section 3 |
| margin | p(drawn token) minus the largest probability of another token | arXiv 2502.06768, under argmax |
| log_margin | the same of log-probabilities | unbounded, so that noise does not dominate it |
| max_confidence | log of the largest probability | the same as confidence under argmax |
| max_margin | largest minus second largest probability | arXiv 2502.06768; `topk_margin` of Dream |
| max_log_margin | the same of log-probabilities | |
| entropy | minus the entropy of p, in nats | arXiv 2505.24857 |
| oracle | log p(x0) | arXiv 2606.00295, section 2.2 |
| gt_margin | p(x0) minus the largest probability of another token | arXiv 2602.09501 |

The drawn token is the one that the token rule proposes at the position in this step. Under argmax it is the likeliest one, and
each order equals its `max_` form. p is the denoiser's own distribution, before temperature and truncation, as in LLaDA. Entropy
belongs to the distribution and not to a token, so it has one form.

The scale of a score matters as soon as noise is added to it: log-probabilities and log-margins are unbounded, margins lie
in [0, 1], entropies in [-log V, 0].
"""

import torch
from torch import Tensor

from anyorder.errors import BadInput
from anyorder.noise import Purpose
from anyorder.prediction import Prediction
from anyorder.registry import ORDERS
from anyorder.state import DecodeState

_LARGEST_MARGIN = 1e4  # nats


@ORDERS.register("random", baseline=True, default=True, color="#c9a227")
def random(state: DecodeState, prediction: Prediction) -> Tensor:
    """Uniform numbers in (0, 1), drawn again in every step."""
    return state.uniform(Purpose.RANDOM_ORDER).float().masked_fill(~prediction.predicted, -torch.inf)


@ORDERS.register("left_to_right", baseline=True, default=True, sequential=True, color="#6b4f3a")
def left_to_right(state: DecodeState, prediction: Prediction) -> Tensor:
    """Minus the position."""
    return -state.index.float().masked_fill(~prediction.predicted, torch.inf)


@ORDERS.register("right_to_left", baseline=True, default=True, sequential="from the right", color="#8c5a7a")
def right_to_left(state: DecodeState, prediction: Prediction) -> Tensor:
    """The position: what depends on the places behind it, as a digit of a sum does, comes last."""
    return state.index.float().masked_fill(~prediction.predicted, -torch.inf)


@ORDERS.register("confidence", baseline=True, default=True, color="#1f6fc4")
def confidence(state: DecodeState, prediction: Prediction) -> Tensor:
    """Log-probability of the drawn token."""
    return prediction.scatter(prediction.drawn_log_probs)


@ORDERS.register("margin", baseline=True, default=True, color="#157347")
def margin(state: DecodeState, prediction: Prediction) -> Tensor:
    """Probability of the drawn token minus the largest of another token; below 0 where a likelier token was not drawn."""
    return prediction.scatter(prediction.drawn_log_probs.exp() - prediction.other_log_probs.exp())


@ORDERS.register("log_margin", baseline=True, default=True, color="#0b7c86")
def log_margin(state: DecodeState, prediction: Prediction) -> Tensor:
    """Log-probability of the drawn token minus the largest of another token."""
    return prediction.scatter(_finite(prediction.drawn_log_probs - prediction.other_log_probs))


def _finite(margins: Tensor) -> Tensor:
    """Margins of log-probabilities, of which one is infinite where a constraint leaves a single token."""
    return margins.clamp(-_LARGEST_MARGIN, _LARGEST_MARGIN)


@ORDERS.register("max_confidence", baseline=True, twin=True, color="#7fa9d9")
def max_confidence(state: DecodeState, prediction: Prediction) -> Tensor:
    """Log of the largest probability, whatever token was drawn."""
    return prediction.scatter(prediction.best_log_probs)


@ORDERS.register("max_margin", baseline=True, twin=True, color="#7db894")
def max_margin(state: DecodeState, prediction: Prediction) -> Tensor:
    """Largest minus second largest probability, whatever token was drawn."""
    top = prediction.top_log_probs.exp()
    return prediction.scatter(top[:, 0] - top[:, 1])


@ORDERS.register("max_log_margin", baseline=True, twin=True, color="#7bb5ba")
def max_log_margin(state: DecodeState, prediction: Prediction) -> Tensor:
    """Largest minus second largest log-probability, whatever token was drawn."""
    top = prediction.top_log_probs
    return prediction.scatter(_finite(top[:, 0] - top[:, 1]))


@ORDERS.register("entropy", baseline=True, default=True, color="#7a35ad")
def entropy(state: DecodeState, prediction: Prediction) -> Tensor:
    """Minus the entropy in nats."""
    return prediction.scatter(-prediction.entropy)


@ORDERS.register("oracle", oracle=True, default=True, color="#8a94a2")
def oracle(state: DecodeState, prediction: Prediction) -> Tensor:
    """log p(x0): the position where the denoiser's loss is smallest. Reads the solution."""
    return prediction.scatter(prediction.log_probs_of(_truth(state, prediction)))


@ORDERS.register("gt_margin", oracle=True, color="#b4bcc6")
def gt_margin(state: DecodeState, prediction: Prediction) -> Tensor:
    """p(x0) minus the largest probability of any other token. Reads the solution."""
    x0 = _truth(state, prediction)
    top, tokens = prediction.top_log_probs, prediction.top_tokens
    other = torch.where(tokens[:, 0] == x0, top[:, 1], top[:, 0])
    return prediction.scatter(prediction.log_probs_of(x0).exp() - other.exp())


def _truth(state: DecodeState, prediction: Prediction) -> Tensor:
    """The solution at the predicted positions, int64 (K,)."""
    if state.x0 is None:
        raise BadInput("an oracle needs the solution: problems with known solutions (x0)")
    return state.x0[prediction.predicted]
