"""Training: one loop for denoisers and orders, recipes, checkpoints."""

from anyorder.training.fit import fit_order as fit_order
from anyorder.training.fit import fit_order_by_reward as fit_order_by_reward
from anyorder.training.fit import run_recipe as run_recipe
from anyorder.training.recipes import load_recipe as load_recipe
from anyorder.training.rewards import Outcome as Outcome
from anyorder.training.rewards import Reward as Reward
from anyorder.training.settings import ObjectiveSettings as ObjectiveSettings
from anyorder.training.settings import PolicySettings as PolicySettings
from anyorder.training.settings import RolloutSettings as RolloutSettings
from anyorder.training.settings import UpdateSettings as UpdateSettings
