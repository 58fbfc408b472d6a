"""Orders: where to unmask next. A new one is a function with a `register` decorator, in a file here or in another package.

`anyorder.orders.confidence` and the other heuristics are functions `(state, prediction) -> scores`; `LearnedOrder` makes an
order of a policy network.
"""

from anyorder.orders.base import Binding as Binding
from anyorder.orders.base import Order as Order
from anyorder.orders.base import Unbound as Unbound
from anyorder.orders.end_penalty import EarlyEndRejection as EarlyEndRejection
from anyorder.orders.end_penalty import EndPenalty as EndPenalty
from anyorder.orders.half_planned import GtMarginPlanner as GtMarginPlanner
from anyorder.orders.half_planned import PlannedFirst as PlannedFirst
from anyorder.orders.heuristics import confidence as confidence
from anyorder.orders.heuristics import entropy as entropy
from anyorder.orders.heuristics import gt_margin as gt_margin
from anyorder.orders.heuristics import left_to_right as left_to_right
from anyorder.orders.heuristics import log_margin as log_margin
from anyorder.orders.heuristics import margin as margin
from anyorder.orders.heuristics import max_confidence as max_confidence
from anyorder.orders.heuristics import max_log_margin as max_log_margin
from anyorder.orders.heuristics import max_margin as max_margin
from anyorder.orders.heuristics import oracle as oracle
from anyorder.orders.heuristics import random as random
from anyorder.orders.heuristics import right_to_left as right_to_left
from anyorder.orders.info_gain import InfoGain as InfoGain
from anyorder.orders.learned import Critic as Critic
from anyorder.orders.learned import LearnedOrder as LearnedOrder
from anyorder.orders.learned import SavedOrder as SavedOrder
from anyorder.orders.perturbed import Perturbed as Perturbed
from anyorder.orders.perturbed import TopPositions as TopPositions
from anyorder.orders.policies import LookaheadPolicy as LookaheadPolicy
from anyorder.orders.policies import MLPPolicy as MLPPolicy
from anyorder.orders.policies import PolicyNetwork as PolicyNetwork
from anyorder.orders.policies import ScoreHiddenTransformer as ScoreHiddenTransformer
from anyorder.orders.policies import ScoreTransformer as ScoreTransformer
from anyorder.orders.policies import SupervisedPolicy as SupervisedPolicy
from anyorder.orders.published_policies import DUltraPolicy as DUltraPolicy
from anyorder.orders.published_policies import PairwisePolicy as PairwisePolicy
from anyorder.orders.reward_policies import ConfidenceTransformer as ConfidenceTransformer
from anyorder.orders.reward_policies import RewardPolicy as RewardPolicy
from anyorder.orders.reward_policies import UPOPolicy as UPOPolicy
