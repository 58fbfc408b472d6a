"""Evaluation: compare samplers on the same problems, with intervals and paired tests; calibration and headroom."""

from anyorder.evaluation.comparison import evaluate as evaluate
from anyorder.evaluation.headroom_check import Headroom as Headroom
from anyorder.evaluation.headroom_check import headroom as headroom
from anyorder.evaluation.operating_points import Fronts as Fronts
from anyorder.evaluation.operating_points import pareto as pareto
from anyorder.evaluation.repeated_draws import PassAtN as PassAtN
from anyorder.evaluation.repeated_draws import pass_at_n as pass_at_n
from anyorder.evaluation.results import Comparison as Comparison
from anyorder.evaluation.results import Report as Report
from anyorder.evaluation.results import Result as Result
from anyorder.evaluation.samplers import default_samplers as default_samplers
