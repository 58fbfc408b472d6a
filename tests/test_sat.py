"""The generator, the checker and the file formats of 3-SAT."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyorder.errors import BadInput
from anyorder.evaluation.comparison import evaluate
from anyorder.evaluation.tables import markdown
from anyorder.tasks.base import Instances
from anyorder.tasks.sat import Sat, ye_clauses
from anyorder.tasks.sat_rules import count_models, random_formula
from conftest import shared_file


def brute_force(formula: np.ndarray, variables: int) -> list[tuple[bool, ...]]:
    return [
        values
        for values in product([False, True], repeat=variables)
        if all(any(values[abs(x) - 1] == (x > 0) for x in clause) for clause in formula)
    ]


def test_the_number_of_clauses_is_yes() -> None:
    assert [ye_clauses(n) for n in (5, 7, 9)] == [41, 45, 51]


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 8), st.integers(1, 25), st.integers(0, 10**6))
def test_counting_models_agrees_with_brute_force(variables: int, clauses: int, seed: int) -> None:
    clauses = min(clauses, 8 * (variables * (variables - 1) * (variables - 2) // 6))
    formula = random_formula(variables, clauses, seed)
    assert count_models(formula, variables) == len(brute_force(formula, variables))


def test_random_formulas_have_distinct_clauses_of_distinct_variables() -> None:
    formula = random_formula(5, 41, 3)
    assert len({tuple(c) for c in formula.tolist()}) == 41
    assert all(0 < abs(a) < abs(b) < abs(c) <= 5 for a, b, c in formula.tolist())


@pytest.mark.parametrize("layout", ["infill", "prefix"])
@pytest.mark.parametrize("variables", [5, 7, 9])
def test_generated_formulas_are_satisfied_by_their_stored_assignment(variables: int, layout: str) -> None:
    task = Sat(variables, layout=layout)
    instances = task.generate(50, seed=4)
    assert instances.x0 is not None
    assert task.check(instances, instances.x0).instance_correct.all()
    x0, tokens = task.augment(instances.x0, instances.tokens, np.random.default_rng(0))
    assert task.check(Instances(tokens, instances.maskable, x0), x0).instance_correct.all()
    assert not (tokens == instances.tokens).all(dim=1).any()


def test_the_distribution_is_that_of_the_published_sets() -> None:
    models = Sat(9).generate(3000, seed=0).labels["models"]
    assert models.mean() == pytest.approx(1.666, abs=0.06)
    assert (models == 1).mean() == pytest.approx(0.611, abs=0.03)


def test_the_checker_agrees_with_brute_force_on_every_assignment() -> None:
    task = Sat(5, clauses=12)
    formula = random_formula(5, 12, 8)
    assignments = np.array(list(product([False, True], repeat=5)))
    instances = task.encode(np.repeat(formula[None], 32, axis=0), None)
    answers = task.encode(np.repeat(formula[None], 32, axis=0), assignments)
    assert answers.x0 is not None
    good = set(brute_force(formula, 5))
    expected = [tuple(a) in good for a in assignments.tolist()]
    assert task.check(instances, answers.x0).instance_correct.tolist() == expected
    assert 0 < sum(expected) < 32


def test_a_changed_formula_or_a_missing_value_is_wrong() -> None:
    task = Sat(5)
    instances = task.generate(1, 0)
    assert instances.x0 is not None
    changed = instances.x0.clone()
    changed[0, 0] = changed[0, 0] % 10 + 1
    assert not task.check(instances, changed).instance_correct.item()
    missing = instances.x0.clone()
    missing[0, -1] = 0
    assert not task.check(instances, missing).instance_correct.item()
    assert task.format(missing[0]).endswith("?")


def test_relations_of_a_small_formula() -> None:
    task = Sat(3, clauses=1)
    instances = task.encode(np.array([[[1, -2, 3]]]), np.array([[True, True, False]]))
    assert instances.x0 is not None
    relations = task.relations()
    variable, value, true = (relations[n](instances.x0)[0] for n in ("variable", "value", "true"))
    assert relations["clause"](instances.x0)[0, :3, :3].all()
    assert not relations["clause"](instances.x0)[0, :3, 3:].any()
    for literal, place in ((0, 3), (1, 4), (2, 5)):
        assert variable[literal].nonzero()[:, 0].tolist() == [literal, place]
        assert value[literal].nonzero()[:, 0].tolist() == [place]
    assert [true[literal].any().item() for literal in range(3)] == [True, False, False]  # x1 is true; not-x2, x3 are false


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3", "1 clauses; the task is set up for 2"),
        ("1,2,3/1,2,9", "literal '9'; variables run from 1 to 4"),
        ("1,2,3/1,2", "clause 2 has 2 literals"),
        ("1,2,3/1,1,2", "clause 2 names a variable twice"),
        ("1,2,3/1,2,x", "literal 'x'"),
    ],
)
def test_bad_formulas_say_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Sat(4, clauses=2).parse(text)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="0123456789bcdefghij,/-+ x", max_size=60))
def test_nonsense_is_bad_input_and_nothing_else(text: str) -> None:
    try:
        Sat(9, clauses=2).parse(text)
    except BadInput:
        return


@pytest.mark.parametrize("line", ["nonsense", "[]", '{"a": 1}', '{"input": 5}', '{"clauses": [[1, 2, true]]}'])
def test_a_bad_line_of_a_file_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps({"clauses": [[1, 2, 3]]}) + "\n" + line + "\n")
    with pytest.raises(BadInput, match="line 2"):
        Sat(3, clauses=1).load(path)


def test_large_formulas_come_from_a_solver() -> None:
    pytest.importorskip("pysat")
    task = Sat(24, clauses=90)
    instances = task.generate(3, 1)
    assert task.check(instances, instances.x0).instance_correct.all()


def test_published_files_are_read_with_their_known_numbers_of_models() -> None:
    for variables, several in ((5, 12), (7, 181), (9, 389)):
        task = Sat(variables)
        instances = task.load(shared_file(f"sat/3sat{variables}_test.jsonl"))
        assert len(instances) == 1000
        assert task.check(instances, instances.x0).instance_correct.all()
        formulas = task._literal_of(instances.tokens[:, : task.literals]).view(1000, -1, 3).numpy()
        assert sum(count_models(f, variables) > 1 for f in formulas) == several
    assert len(Sat(20, clauses=91).load(shared_file("sat/uf20-91.jsonl"))) == 500


def test_unknown_layouts_and_sizes_are_refused() -> None:
    with pytest.raises(BadInput, match="5, 7 or 9"):
        Sat(6, layout="prefix")
    with pytest.raises(BadInput, match="at least 3"):
        Sat(2)
    assert torch.equal(Sat(7).generate(2, 3).tokens, Sat(7).generate(5, 3).tokens[:2])


def test_models_of_a_file_are_counted_and_cap_the_exact_match(tmp_path: Path) -> None:
    task = Sat(3, clauses=1)
    path = tmp_path / "one.jsonl"
    path.write_text('{"input": "1,2,3", "output": "1,2,3"}\n')  # one clause of three variables: seven models
    problems = task.load(path)
    assert problems.labels["models"].tolist() == [7]

    class Always(torch.nn.Module):
        mask_token_id, vocab_size, hidden_size = task.mask_token_id, task.vocab_size, 1

        def forward(self, tokens: Any, attention_mask: Any = None, positions: Any = None) -> Any:
            logits = torch.zeros(*tokens.shape, task.vocab_size)
            logits[:, 3, 1], logits[:, 4, 5], logits[:, 5, 3] = 9.0, 9.0, 9.0  # 1, not 2, 3: right, and not as stored
            return logits[positions], torch.zeros(*tokens.shape, 1)

    report = evaluate(Always(), task, problems, ["confidence"], [3])  # type: ignore[arg-type]
    assert (report.results[0].instance_accuracy, report.results[0].exact_match) == (1.0, 0.0)
    assert report.meta["exact_match_ceiling"] == pytest.approx(1 / 7)
    assert "exact match (ceiling 14.3 %)" in markdown(report)


@pytest.mark.parametrize(("variables", "clauses"), [(3, None), (4, None), (4, 29), (9, 600), (9, 0)])
def test_more_clauses_than_any_assignment_can_satisfy_are_refused(variables: int, clauses: int | None) -> None:
    with pytest.raises(BadInput, match=r"clauses if it can be satisfied, not \d+: give clauses"):
        Sat(variables, clauses)


def test_a_number_of_clauses_at_which_formulas_are_hardly_ever_satisfiable_ends_with_an_error() -> None:
    with pytest.raises(BadInput, match="hardly any formula of 300 clauses over 9 variables"):
        Sat(9, clauses=300).generate(1, 0)


def test_every_seed_gives_a_large_formula() -> None:
    pytest.importorskip("pysat")
    problems = Sat(25).generate(40, 0)
    assert problems.x0 is not None and Sat(25).check(problems, problems.x0).instance_correct.all()
