"""The problems of a fit: none of the test is among those to which something was fitted or by which something was chosen."""

import pytest
import torch

from anyorder.errors import BadInput
from anyorder.fitting.data import _apart, _others
from anyorder.tasks import Instances


def problems(*numbers: int) -> Instances:
    tokens = torch.tensor([[number, 0] for number in numbers])
    return Instances(tokens, tokens == 0, tokens)


def first(part: Instances) -> list[int]:
    return part.tokens[:, 0].tolist()


def test_the_sets_of_a_fit_have_no_problem_in_common() -> None:
    train, validation, test = _apart(problems(1, 2, 3, 3, 4, 9, 9), problems(3, 5, 5, 6, 7), problems(7, 8, 8, 2))
    assert first(test) == [7, 8, 2], "each once"
    assert first(validation) == [3, 5, 6], "none of the test, each once"
    assert first(train) == [1, 4, 9, 9], "none of the others; repetitions count in training"


def test_the_first_problems_are_not_those_of_the_test() -> None:
    assert first(_others(problems(1, 2, 3, 3), problems(2, 9))) == [1, 3, 3]


def test_problems_that_are_all_the_same_cannot_be_fitted_to() -> None:
    with pytest.raises(BadInput, match="hardly any of these problems differ from one another"):
        _apart(problems(1, 1, 1), problems(1, 1), problems(1, 1))
