"""The generator, the checker and the file format of sorting."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyorder.errors import BadInput
from anyorder.tasks.base import Instances
from anyorder.tasks.sorting import Sorting


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 8), st.integers(2, 9), st.integers(0, 10**6))
def test_the_stored_answer_is_right_and_stays_so(items: int, values: int, seed: int) -> None:
    task = Sorting(items, values)
    instances = task.generate(6, seed)
    assert instances.x0 is not None
    for tokens, x0 in zip(instances.tokens, instances.x0, strict=True):
        assert x0[items:].tolist() == sorted(tokens[:items].tolist())
    verdict = task.check(instances, instances.x0)
    assert verdict.instance_correct.all() and (verdict.cell_accuracy == 1).all()
    x0, tokens = task.augment(instances.x0, instances.tokens, np.random.default_rng(seed))
    augmented = Instances(tokens, tokens == task.mask_token_id, x0)
    assert torch.equal(augmented.maskable, instances.maskable)
    assert task.check(augmented, x0).instance_correct.all()


def test_augmentation_permutes_and_turns_the_numbers() -> None:
    task = Sorting(5, 10)
    instances = task.parse("0 1 2 3 3")
    assert instances.x0 is not None
    x0, tokens = task.augment(instances.x0.repeat(50, 1), instances.tokens.repeat(50, 1), np.random.default_rng(0))
    assert {task.format(row) for row in x0} == {"0,1,2,3,3", "6,6,7,8,9"}
    assert len({tuple(row) for row in tokens[:, :5].tolist()}) > 20


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 8), st.integers(0, 8))
def test_a_sequence_depends_on_the_seed_and_its_number_only(seed: int, few: int, more: int) -> None:
    task = Sorting(4)
    assert torch.equal(task.generate(few, seed).tokens, task.generate(few + more, seed).tokens[:few])


def test_numbers_are_uniform_with_or_without_duplicates() -> None:
    task = Sorting(8, 10)
    instances = task.generate(500, seed=0)
    counts = torch.bincount(instances.tokens[:, :8].flatten(), minlength=11)[1:]
    assert counts.tolist() == pytest.approx([400] * 10, abs=100)
    assert instances.labels["repeats"].max() > 0
    assert (task.generate(500, seed=0, duplicates=False).labels["repeats"] == 0).all()
    assert task.encode(np.array([[5, 5, 5, 1, 2, 1, 3, 4]])).labels["repeats"].tolist() == [3]
    with pytest.raises(BadInput, match="cannot be drawn from 4"):
        Sorting(8, 4).generate(1, 0, duplicates=False)
    with pytest.raises(BadInput, match="true or false"):
        task.generate(1, 0, duplicates="no")


@pytest.mark.parametrize("answer", [[3, 3, 9, 5], [3, 5, 5, 9], [3, 5, 9, 9], [9, 5, 3, 3], [3, 3, 5, 8]])
def test_a_wrong_order_or_other_numbers_are_wrong(answer: list[int]) -> None:
    task = Sorting(4, 10)
    instances = task.parse("5,3,9,3")
    tokens = instances.tokens.clone()
    tokens[0, 4:] = torch.tensor(answer) + 1
    verdict = task.check(instances, tokens)
    assert not verdict.instance_correct.item()
    expected = np.mean(np.array(answer) == np.array([3, 3, 5, 9]))
    assert verdict.cell_accuracy.item() == pytest.approx(expected)


def test_a_mask_or_a_changed_number_is_wrong() -> None:
    task = Sorting(4, 10)
    instances = task.parse("5,3,9,3")
    assert instances.x0 is not None
    for place, token in ((7, 0), (1, 5)):
        changed = instances.x0.clone()
        changed[0, place] = token
        assert not task.check(instances, changed).instance_correct.item()
    assert task.format(instances.x0[0]) == "3,3,5,9"
    assert task.format(instances.tokens[0]) == ".,.,.,."


def test_relations_of_a_short_sequence() -> None:
    task = Sorting(3, 10)
    x0 = task.parse("5 3 5").x0
    assert x0 is not None
    relation = {name: relation(x0)[0] for name, relation in task.relations().items()}
    assert relation["given"][4].tolist() == [True] * 3 + [False] * 3
    assert relation["answer"][4].tolist() == [False] * 3 + [True] * 3 and not relation["answer"][0].any()
    assert relation["next"][4].nonzero()[:, 0].tolist() == [3, 5] and not relation["next"][2].any()
    assert relation["value"][0].nonzero()[:, 0].tolist() == [0, 2, 4, 5]
    masked = task.parse("5 3 5").tokens
    assert not task.relations()["value"](masked)[0, 3:].any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3", "has 3 numbers; the task is set up for 4"),
        ("1,2,3,x", "'x' is not a number from 0 to 9"),
        ("1,2,3,10", "'10' is not a number"),
        ("1,2,3,-1", "'-1' is not a number"),
        ("", "has 0 numbers"),
    ],
)
def test_bad_sequences_say_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Sorting(4, 10).parse(text)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="0123456789, -.x²", max_size=20))
def test_nonsense_is_bad_input_and_nothing_else(text: str) -> None:
    try:
        Sorting(3, 10).parse(text)
    except BadInput:
        return


def test_files_hold_one_sequence_per_line(tmp_path: Path) -> None:
    path = tmp_path / "sequences.txt"
    path.write_text("5,3,9,3\n\n1 2 3 4\n")
    task = Sorting(4, 10)
    assert Sorting.options_of(path.open().readline, None) == {"items": 4}
    assert Sorting.options_of(None, "4, 5 6") == {"items": 3} and Sorting.options_of(None, "4") == {}
    instances = task.load(path)
    assert instances.x0 is not None
    assert [task.format(row) for row in instances.x0] == ["3,3,5,9", "1,2,3,4"]
    assert len(task.load(path, limit=1)) == 1
    path.write_text("5,3,9,3\n5,3,9\n")
    with pytest.raises(BadInput, match="line 2: this sequence has 3"):
        task.load(path)
    path.write_text("")
    with pytest.raises(BadInput, match="holds no sequences"):
        task.load(path)


def test_sizes_that_make_no_sense_are_refused() -> None:
    for options in ({"items": 1}, {"values": 1}, {"items": "x"}):
        with pytest.raises(BadInput, match=r"2 (items|values) or more"):
            Sorting(**options)
