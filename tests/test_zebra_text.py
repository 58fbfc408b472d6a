"""Zebra puzzles as text: statements, files, and what is refused."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyorder.errors import BadInput
from anyorder.tasks.base import Instances
from anyorder.tasks.zebra import Zebra
from anyorder.tasks.zebra_text import read_statement

LIFE_1962 = """
A1 = B1; A2 = E1; C1 = B2; A3 = C2; B3 << B2; D1 = E2; D2 = B4
C3 at 3
A4 at 1
D3 ~ E3; D2 ~ E4; D4 = C4; A5 = D5; A4 ~ B5
"""
LIFE_SOLUTION = "A4 B4 C5 D2 E3 | A3 B5 C2 D3 E4 | A1 B1 C3 D1 E2 | A2 B3 C4 D4 E1 | A5 B2 C1 D5 E5"
UNIQUE = "A1 = B1; B1 = C1; A2 = B2; B2 = C2; A1 << A2; A2 << A3"


def test_the_puzzle_of_1962_is_solved() -> None:
    task = Zebra(5, 5)
    puzzle = task.parse(LIFE_1962)
    assert puzzle.x0 is not None
    assert task.format(puzzle.x0[0]) == LIFE_SOLUTION
    assert task.check(puzzle, puzzle.x0).instance_correct.item()
    assert puzzle.maskable.sum() == 23  # two cells are given


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 6), st.integers(3, 6), st.integers(0, 4), st.integers(0, 10**6))
def test_a_saved_puzzle_is_read_as_it_was(houses: int, attributes: int, givens: int, seed: int) -> None:
    task = Zebra(houses, attributes)
    instances = task.generate(1, seed, givens=givens)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "puzzles.jsonl"
        task.save(instances, path)
        again = task.load(path)
        (line,) = path.read_text(encoding="utf-8").splitlines()
    assert again.x0 is not None and instances.x0 is not None
    assert torch.equal(again.tokens, instances.tokens)
    assert torch.equal(again.maskable, instances.maskable)
    assert torch.equal(again.x0, instances.x0)
    assert {name: v.tolist() for name, v in again.labels.items()} == {n: v.tolist() for n, v in instances.labels.items()}
    assert Zebra.options_of(lambda: line, None) == {"houses": houses, "attributes": attributes}


def test_statements_may_be_written_loosely() -> None:
    task = Zebra(3, 3)
    loose = "  a1=b1\nB1 =c1;;A2=B2 ; b2  =  C2\n\n a1<<A2;A2<<a3 \n"
    assert torch.equal(task.parse(loose).tokens, task.parse(UNIQUE).tokens)
    assert read_statement("c3 BETWEEN b1 AND a2", 3, 3) == (5, 8, 1, 3)
    assert read_statement("B2~A1", 3, 3) == (4, 0, 4, -1)  # ascending
    assert read_statement("B2<A1", 3, 3) == (2, 4, 0, -1)  # as it stands
    assert read_statement("A1 at End", 3, 3) == (6, 0, -1, -1)


def test_sizes_are_read_off_what_is_named() -> None:
    assert Zebra.options_of(None, LIFE_1962) == {"houses": 5, "attributes": 5}
    assert Zebra.options_of(None, "A1 = B2") == {}
    assert Zebra.options_of(None, None) == {}
    assert Zebra.options_of(lambda: "nonsense", None) == {}


def test_the_answer_as_text_shows_what_is_missing_or_out_of_place() -> None:
    task = Zebra(3, 3)
    puzzle = task.parse(UNIQUE)
    assert task.format(puzzle.tokens[0]) == ". . . | . . . | . . ."
    assert puzzle.x0 is not None
    odd = puzzle.x0[0].clone()
    odd[-9], odd[-1] = odd[-1], task.vocab_size - 1
    assert task.format(odd) == "? B1 C1 | A2 B2 C2 | A3 B3 ?"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "more than one solution"),
        ("A1 = B1", "more than one solution"),
        ("A1 < A2; A2 < A3; A3 < A1", "no solution"),
        (UNIQUE + "; C1 ~ A3", "no solution"),
        (UNIQUE + "; A1 at 2", "no solution"),
        (UNIQUE + "; A1 at 1; A1 at 2", "no solution"),
        ("A1 = D1", "clue 1: value 'D1' is unknown: a puzzle of this size has A1-A3 to C1-C3"),
        ("A1 = B1; A4 = B2", "clue 2: value 'A4'"),
        ("A0 = B1", "value 'A0'"),
        ("A1 = A2", "two values of one attribute"),
        ("A1 != A2", "two values of one attribute"),
        ("A1 < A1", "names a value twice"),
        ("A1 between B1 and B1", "names a value twice"),
        ("A1 between B1", "write A1 between B2 and C3"),
        ("A1 between B1 and B2 and C1", "write A1 between B2 and C3"),
        ("A1 at 4", "houses run from 1 to 3"),
        ("A1 at home", "houses run from 1 to 3"),
        ("A1 > B1", "'A1 > B1' is not a clue: write one of A1 = B2"),
        ("A1 =", "is not a clue"),
        ("; ".join(["A1 = B1"] * 11), "11 clues; the task is set up for at most 10"),
    ],
)
def test_bad_puzzles_say_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Zebra(3, 3).parse(text)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=60), st.text(alphabet="ABCDabc0123456789=!<~;\n betwnadt", max_size=60)))
def test_nonsense_is_bad_input_and_nothing_else(text: str) -> None:
    try:
        Zebra(3, 3).parse(text)
    except BadInput:
        return


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "line 2"),
        ("[" * 100_000, "line 2"),
        ("[]", "line 2: expected an object with columns by name"),
        ('{"clues": "A1 = B1"}', 'expected an object with "clues"'),
        ('{"clues": [5]}', 'expected an object with "clues"'),
        ('{"clues": []}', "line 2: this puzzle has more than one solution"),
        ('{"clues": ["A1 = E5"]}', "line 2: clue 1: value 'E5' is unknown"),
        (json.dumps({"clues": UNIQUE.split(";"), "solution": "A1"}), "list of 3 texts"),
        (json.dumps({"clues": UNIQUE.split(";"), "solution": ["A1 B1 C1", "A2 B2 C2"]}), "list of 3 texts"),
        (json.dumps({"clues": UNIQUE.split(";"), "solution": ["A1 B1 C1", "A2 B2 C3", "A3 B3 C2"]}), "house 2 .* 'A2 B2 C2'"),
        (json.dumps({"clues": UNIQUE.split(";"), "solution": ["A1 B1 C1", "A2 B2", "A3 B3 C3"]}), "house 2 of the solution"),
        (json.dumps({"clues": UNIQUE.split(";"), "solution": ["A1 B1 C1", "A2 B2 Z9", "A3 B3 C3"]}), "value 'Z9'"),
    ],
)
def test_a_bad_line_of_a_file_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps({"clues": UNIQUE.split(";")}) + "\n" + line + "\n")
    with pytest.raises(BadInput, match=message):
        Zebra(3, 3).load(path)
    assert len(Zebra(3, 3).load(path, limit=1)) == 1


def test_an_empty_file_holds_no_puzzles(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(BadInput, match="no puzzles"):
        Zebra().load(tmp_path / "empty.jsonl")


def test_a_problem_without_a_solution_is_saved_and_solved_again(tmp_path: Path) -> None:
    task = Zebra(3, 3)
    puzzle = task.parse(UNIQUE)
    task.save(Instances(puzzle.tokens, puzzle.maskable), tmp_path / "out.jsonl")
    again = task.load(tmp_path / "out.jsonl")
    assert again.x0 is not None and puzzle.x0 is not None and again.x0.equal(puzzle.x0)
    assert "solution" not in (tmp_path / "out.jsonl").read_text()


def test_unsupported_sizes_are_refused() -> None:
    for houses, attributes in ((2, 4), (7, 4), (4, 2), (4, 7)):
        with pytest.raises(BadInput, match="3 to 6 houses"):
            Zebra(houses, attributes)
    with pytest.raises(BadInput, match="at least one clue slot"):
        Zebra(4, 4, slots=0)
