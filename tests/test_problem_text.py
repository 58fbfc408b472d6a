"""Problems as text are read back to the same: `problem_text` is the inverse of `parse`, `save` of `load`, and what
`anyorder problems` writes is what every command would generate."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anyorder.errors import BadInput
from anyorder.registry import TASKS
from anyorder.session import open_session
from anyorder.tasks import Instances, Task, make_task
from commands import refused, run

KINDS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("sudoku", {"box": 2}, {}),
    ("sudoku", {"box": 2, "layout": "prefix"}, {}),
    ("sudoku", {"box": 2, "digits": "A-D"}, {"unique": False, "givens": 3}),
    ("sudoku", {}, {"givens": 40}),
    ("sudoku", {"box": 4}, {"givens": 180}),
    ("sudoku", {"box": 4, "digits": "0-F"}, {"givens": 180}),
    ("sudoku", {"box": 4, "digits": "1-16"}, {"givens": 180}),
    ("sat", {"variables": 5}, {}),
    ("sat", {"variables": 9, "layout": "prefix"}, {}),
    ("sat", {"variables": 12, "clauses": 6}, {}),
    ("countdown", {"numbers": 3}, {}),
    ("countdown", {}, {}),
    ("zebra", {"houses": 3, "attributes": 3}, {}),
    ("zebra", {}, {"givens": 3}),
    ("sorting", {"items": 5}, {}),
    ("sorting", {"items": 5, "values": 1000}, {"duplicates": False}),
    ("arithmetic", {"digits": 5}, {"carry": 0.5}),
    ("arithmetic", {"digits": 5}, {"givens": 3}),
    ("arithmetic", {"operation": "multiply", "digits": 3}, {}),
    ("tsp", {"cities": 4}, {}),
    ("text", {}, {"length": (1, 9)}),
    ("text", {"alphabet": "subwords", "free_length": True, "length": 7}, {}),
    ("protein", {}, {"length": (3, 40)}),
    ("antibody", {}, {"length": 110}),
    ("molecules", {}, {"length": (2, 30)}),
    ("words", {}, {}),
    ("words", {"problems": "zebra"}, {}),
    ("words", {"problems": "sudoku4", "prefill": True}, {"givens": 5}),
]
"""Tasks, their options, and those of their generators."""


def same(one: Instances, other: Instances) -> bool:
    return torch.equal(one.tokens, other.tokens) and torch.equal(one.maskable, other.maskable)


def test_every_task_with_a_generator_is_tried() -> None:
    own = {entry.name for entry in TASKS.entries() if entry.part.__module__.startswith("anyorder.")}
    assert {name for name, *_ in KINDS} == own - {"math"}, "math generates nothing"


@pytest.mark.parametrize(("name", "options", "generate"), KINDS)
def test_the_text_of_a_problem_is_parsed_to_the_problem(name: str, options: dict[str, Any], generate: dict[str, Any]) -> None:
    task = make_task(name, **options)

    @settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 10**6))
    def check(seed: int) -> None:
        problem = task.generate(1, seed, **generate)
        again = task.parse(task.problem_text(problem.tokens[0]))
        assert same(again, problem)

    check()


@pytest.mark.parametrize(("name", "options", "generate"), KINDS)
def test_a_file_of_problems_is_read_as_it_was_saved(
    name: str, options: dict[str, Any], generate: dict[str, Any], tmp_path: Path
) -> None:
    task = make_task(name, **options)
    problems = task.generate(3, 1, **generate)
    path = tmp_path / f"problems{task.file_suffix}"
    task.save(problems, str(path))
    again = task.load(path)
    assert same(again, problems)
    if problems.x0 is not None:
        assert again.x0 is not None and torch.equal(again.x0, problems.x0)
        task.save(Instances(problems.tokens, problems.maskable), path)
        assert same(task.load(path), problems), "without solutions"
    task.save(problems, f"{path}.gz")
    assert same(task.load(f"{path}.gz"), problems), "packed"
    first = path.read_text(encoding="utf-8").splitlines(keepends=True)[0]
    found = type(task).options_of(iter([first, *[""] * 3]).__next__, None)
    assert found.items() <= task.options.items(), "every command finds the size out"


@pytest.mark.parametrize(
    ("task", "options", "text", "written"),
    [
        ("text", {}, "a person who _{5}", "a person who _{5}"),
        ("text", {"alphabet": "subwords"}, "a person who _{5} far", "a person who_{5} far"),
        ("protein", {}, "mk_X__R*", "MK_{1}X_{2}R"),
        ("molecules", {}, "c1cc_{3}c1", "c1cc_{3}c1"),
        ("sudoku", {"box": 2}, "..3*|____|4...|.1..", "0030000040000100"),
        ("sat", {"variables": 5, "clauses": 2}, "1,2,8/4, 5,1", "1,2,-3/4,5,1"),
        ("zebra", {"houses": 3, "attributes": 3}, "b1<<a1;A3 ~ C3\nA3 < B2; B1 < C1; B1 = C3; A1 at 3", "B1 << A1; A3 ~ C3"),
    ],
)
def test_problems_typed_by_a_person_are_written_in_one_form(
    task: str, options: dict[str, Any], text: str, written: str
) -> None:
    made = make_task(task, **options)
    problem = made.parse(text)
    again = made.problem_text(problem.tokens[0])
    assert again.startswith(written) and same(made.parse(again), problem)


def test_what_would_be_read_as_other_tokens_is_refused() -> None:
    text = make_task("text", alphabet="subwords")
    problem = text.parse("ab_{1}")
    cut = problem.tokens.clone()
    start = len(text.symbols.start)  # type: ignore[attr-defined]
    cut[0, start : start + 2] = torch.tensor([text.symbols.encode(letter)[0] for letter in "th"])  # type: ignore[attr-defined]
    with pytest.raises(BadInput, match="is read as other tokens than those of this problem"):
        text.problem_text(cut[0])
    with pytest.raises(BadInput, match="is read as other tokens"):
        text.problem_text(text.parse("complete").x0[0])  # type: ignore[index]


@pytest.mark.parametrize("name", ["a.txt", "a.csv.gz", "a", "jsonl", "a.gz"])
def test_a_name_that_promises_another_format_is_refused(name: str, tmp_path: Path) -> None:
    task = make_task("text", length=4)
    with pytest.raises(BadInput, match=r"the format that text writes: end it in .jsonl or .jsonl.gz"):
        task.save(task.parse("ab"), tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_task_that_writes_nothing_says_so() -> None:
    class Own(Task):
        vocab_size, mask_token_id, length = 3, 0, 2

        def check(self, instances: Instances, tokens: torch.Tensor) -> Any:
            raise NotImplementedError

    with pytest.raises(BadInput, match="the task Own writes no problems as text"):
        Own().problem_text(torch.zeros(2, dtype=torch.int64))


# ---- the command --------------------------------------------------------------------------------------------------------


def test_the_command_writes_what_every_command_generates(tmp_path: Path) -> None:
    for words in (["--model", "sudoku4", "--generate", "givens=8"], ["--task", "sat"], ["--model", "wordnet"]):
        done = run("problems", *words, "--limit", "3", "--seed", "5", "--out", tmp_path / "p.jsonl")
        assert done.returncode == 0 and not done.stdout, done.stderr
        names = {word.strip("-"): value for word, value in zip(words[::2], words[1::2], strict=True)}
        generate = [names.pop("generate")] if "generate" in names else None
        own = open_session(**names, limit=3, seed=5, generate=generate).instances  # type: ignore[arg-type]
        assert same(open_session(**names, data=tmp_path / "p.jsonl").instances, own)  # type: ignore[arg-type]


def test_what_it_writes_is_solved_by_sample(tmp_path: Path) -> None:
    assert run("problems", "--task-option", "box=2", "--limit", "2", "-o", tmp_path / "p.jsonl").returncode == 0
    done = run("sample", tmp_path / "p.jsonl", "--task", "sudoku")
    solutions = [json.loads(line)["solution"] for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert done.returncode == 0 and done.stdout.split() == solutions


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "p.csv"], "'p.csv' does not name the format that is written: end it in .jsonl"),
        (["--task", "tsp", "--out", "p.jsonl"], "end it in .txt"),
        (["--out", "."], ". is a folder"),
        (["--out", "p.jsonl", "--limit", "2000000000"], "do not fit into memory"),
        (["--out", "p.jsonl", "--generate", "clues=3"], "the generator of sudoku does not take 'clues'"),
        (["--out", "p.jsonl", "--model", "nonsense"], "no denoiser called 'nonsense'"),
        (["--out", "p.jsonl", "--task", "math"], "math needs the tokenizer of a model"),
    ],
)
def test_wrong_options_are_one_error_and_no_file(words: list[str], message: str, tmp_path: Path) -> None:
    refused(run("problems", *words, cwd=tmp_path), message)
    assert not list(tmp_path.iterdir())
