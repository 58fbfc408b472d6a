"""Puzzles and sums in words: prompts, answers, the rules that check them, files, and the tokens of other models."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from anyorder.errors import BadInput
from anyorder.evaluation.comparison import evaluate
from anyorder.tasks import Instances, make_task
from anyorder.tasks.word_problems import KINDS
from anyorder.tasks.words import Words
from anyorder.training.fit import run_recipe
from anyorder.training.recipes import load_recipe
from conftest import shared_file
from tiny_llada import END, MASK, TURN_END, save_llada, save_tokenizer

PROBLEMS = {
    "sudoku4": ("sudoku4: 0000400001030001", "1234\n4312\n2143\n3421"),
    "addition": ("addition: 905 + 95", "1000"),
    "countdown": ("countdown: 66,11,56,50", "66/11=6, 56-6=50"),
    "zebra": ("zebra: A1 at 1; A2 at 2; A1 = B2; A2 = B1; A1 = C2; A2 = C1", "Ann dog jam, Bob cat egg, Cid owl pie"),
}
WRONG = {
    "sudoku4": ["1234\n4312\n2143\n3412", "1234\n4312\n2143\n342", "1234\n4312\n2143\n3427", ""],
    "addition": ["1001", "01000", "1000 1", ""],
    "countdown": ["66/11=6, 56-5=51", "56-6=50", "50", "66/11=6; 56-6=50", "66/11=6, 56-6=50, ", ""],
    "zebra": ["Ann dog jam, Bob cat pie, Cid owl egg", "Ann dog jam, Bob cat egg", "Ann dog jam, Bob cat egg, Cid owl ale", ""],
}


def words(**options: Any) -> Words:
    task = make_task("words", **options)
    assert isinstance(task, Words)
    return task


def answered(task: Words, instances: Instances, *answers: str) -> Tensor:
    """Copies of one problem with these answers, each ended."""
    rows = instances.tokens.repeat(len(answers), 1)
    for row, answer in zip(rows, answers, strict=True):
        tokens = task.tokens_of(answer)
        row[instances.maskable[0]] = torch.tensor([*tokens, *[task._end] * (task.answer_length - len(tokens))])
    return rows


def check(task: Words, instances: Instances, tokens: Tensor) -> list[bool]:
    many = instances[torch.zeros(len(tokens), dtype=torch.int64)]
    return task.check(many, tokens).instance_correct.tolist()


# ---- prompts and answers ------------------------------------------------------------------------------------------------


def test_every_kind_is_tried() -> None:
    assert PROBLEMS.keys() == WRONG.keys() == KINDS.keys()


def test_a_sudoku_is_asked_line_by_line() -> None:
    task = words()
    problem = task.parse("sudoku4: 3102200002100320")
    assert task.format(problem.tokens[0]) == (
        "Solve this 4x4 Sudoku: every row, column and 2x2 box holds 1, 2, 3 and 4 once; 0 is an empty cell.\n"
        "3102\n2000\n0210\n0320\nAnswer:\n" + 40 * "_"
    )


def test_clues_are_asked_in_words() -> None:
    kind = KINDS["zebra"]()
    clues = "A1 << B1; B1 ~ C1; A1 != B2; B1 between A1 and C1; C1 at end; A1 = C2; A2 < A3; B3 at 1"
    asked = kind.ask(clues)
    assert asked.endswith(
        "Ann just left of cat; cat next to egg; Ann not with dog; cat between Ann and egg; egg at end; Ann with jam; "
        "Bob left of Cid; owl at 1"
    )
    assert kind.problem_in(asked) == clues


@pytest.mark.parametrize("kind", KINDS)
def test_right_and_wrong_answers(kind: str) -> None:
    task, (text, right) = words(), PROBLEMS[kind]
    problem = task.parse(text)
    assert check(task, problem, answered(task, problem, right, *WRONG[kind])) == [True] + [False] * len(WRONG[kind])


def test_several_solutions_of_a_sudoku_are_right_and_so_is_another_way_to_the_target() -> None:
    task = words(problems="sudoku4")
    problem = task.parse("0000000000000000")
    assert problem.x0 is None
    assert check(task, problem, answered(task, problem, "1234\n3412\n2143\n4321", "4321\n2143\n3412\n1234")) == [True, True]
    task = words(problems="countdown")
    problem = task.parse("1,2,3,6")
    assert check(task, problem, answered(task, problem, "1+2=3, 3+3=6", "1*2=2, 2*3=6", "2*3=6, 6*1=6")) == [True] * 3


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("56 - 66/11", True),
        ("(56-(66/11)) = 50", True),
        ("56-66/11 =", True),
        ("56-66/11=49", False),
        ("56-66/11=rubbish", False),
        ("66/11", False),
        ("56-66/11+0", False),
        ("56-66//11", False),
        ("56-(66/11", False),
        ("56-66/0", False),
        ("56-11/66", False),
        ("__import__('os')", False),
        ("9" * 39, False),
    ],
)
def test_countdown_takes_one_expression_too(answer: str, right: bool) -> None:
    task = words(problems="countdown")
    problem = task.parse("66,11,56,50")
    assert check(task, problem, answered(task, problem, answer)) == [right]


def test_houses_have_their_three_words_and_no_others() -> None:
    task = words(problems="zebra")
    problem = task.generate(1, 0)
    assert problem.x0 is not None
    answer = task.texts(problem, problem.x0)[0]
    house, *others = answer.split(", ")
    wrong = (f"{house} x", f"{house} 7", f"7 {house}", house.rsplit(" ", 1)[0])
    given = [answer, *(", ".join([one, *others]) for one in wrong), ", ".join(others)]
    assert check(task, problem, answered(task, problem, *given)) == [True, *[False] * 5]


def test_an_answer_with_a_mask_or_another_prompt_is_wrong() -> None:
    task = words()
    problem = task.parse("addition: 12 + 34")
    assert problem.x0 is not None
    open_end, other_prompt = problem.x0.clone(), problem.x0.clone()
    open_end[0, -1] = task.mask_token_id
    other_prompt[0, 3] += 1
    assert check(task, problem, torch.cat([problem.x0, open_end, other_prompt])) == [True, False, False]


def test_cells_are_counted_by_the_task_of_the_puzzle() -> None:
    task = words(problems="sudoku4")
    problem = task.parse("1200341221434301")
    three_of_four = answered(task, problem, "1234\n3412\n2143\n4321", "1234\n3412\n2143\n4311", "1234")
    found = task.check(problem[torch.zeros(3, dtype=torch.int64)], three_of_four)
    assert found.cell_accuracy.tolist() == pytest.approx([1, 2 / 3, 0])


# ---- the generator ------------------------------------------------------------------------------------------------------


def test_a_mixture_asks_each_kind_in_turn_and_does_not_depend_on_the_count() -> None:
    task = words(problems=["sudoku4", "addition", "addition", "zebra"])
    many, few = task.generate(40, 3), task.generate(9, 3)
    assert many.labels["difficulty"].tolist()[:5] == ["sudoku4", "addition", "addition", "zebra", "sudoku4"]
    assert few.labels["problem"].tolist() == many.labels["problem"].tolist()[:9]
    assert set(task.generate(40, 4).labels["problem"]).isdisjoint(many.labels["problem"])
    assert many.x0 is not None and task.check(many, many.x0).instance_correct.all()


def test_options_reach_the_kinds_that_take_them() -> None:
    made = words(problems="addition,sudoku4").generate(40, 0, digits=(2, 3), givens=12, unique=True)
    additions = made.labels["problem"][::2]
    assert {len(number) for text in additions for number in text.split(" + ")} == {2, 3}
    assert all(text.count("0") == 4 for text in made.labels["problem"][1::2])


def test_each_problem_fits_with_all_its_clues() -> None:
    task = words(problems="zebra")
    clue = task.kinds["zebra"].in_words("; ".join(["A1 between B2 and C3"] * 5))
    longest = len(task.kinds["zebra"].ask("")) + len(clue) + len("\nAnswer:\n") + len(task.symbols.start)
    assert longest + task.answer_length <= task.length == 256


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"digits": 10}, "must lie between 1 and 9"),
        ({"digits": "many"}, "must be a number, or a range"),
        ({"digits": (1.5, 3)}, "must be a number, or a range"),
        ({"givens": 17}, "must lie between 0 and 16"),
    ],
)
def test_options_of_the_generator_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        words().generate(8, 0, **options)


# ---- what is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"problems": "chess"}, "problems 'chess' is unknown: use one or more of sudoku4, addition"),
        ({"problems": []}, r"problems \[\] is unknown"),
        ({"length": 300}, r"length 300 must lie in 1\.\.256"),
        ({"prefill": True}, "cannot be prefilled"),
        ({"prompt": "long"}, "prompt 'long' is unknown: use one of short, upo"),
        ({"prompt": "upo"}, "there is no prompt 'upo' of addition: use short"),
    ],
)
def test_wrong_options_of_the_task(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        words(**options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("17 + 25", "names no kind: write addition: 17 \\+ 25"),
        ("chess: e4", "the kind 'chess' is none of those of this task"),
        ("addition: 17 - 25", "'17 - 25' is no sum of two numbers"),
        ("addition: 1234567890 + 1", "at most 9 digits"),
        ("sudoku4: 1100000000000000", "digit 1 twice in row 1"),
        ("countdown: 1,1,1,99", "cannot make 99"),
        ("zebra: A1 = A2", "compares two values of one attribute"),
    ],
)
def test_texts_that_are_no_problems(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        words().parse(text)


def test_answers_and_prompts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(BadInput, match="the answer takes 19 tokens and its end one more; length is 19"):
        words(problems="sudoku4", length=19).generate(1, 0)
    with pytest.raises(BadInput, match="more than the 100 that there is room for"):
        words(problems="sudoku4", longest=100).generate(1, 0)


# ---- files --------------------------------------------------------------------------------------------------------------


def test_stored_solutions_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    rows = [{"kind": "addition", "problem": "1 + 2"}, {"kind": "countdown", "problem": "1,2,3,6", "solution": "1*2=2, 2*3=6"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    found = words().load(path)
    assert found.x0 is not None and words().texts(found, found.x0) == ["3", "1*2=2, 2*3=6"]
    path.write_text(json.dumps({"kind": "addition", "problem": "1 + 2", "solution": "4"}))
    with pytest.raises(BadInput, match=r"line 1: '4' does not solve '1 \+ 2'"):
        words().load(path)
    path.write_text(json.dumps({"problem": "1 + 2"}))
    with pytest.raises(BadInput, match='line 1: expected texts "kind", "problem" and perhaps "solution"; files of one puzzle'):
        words().load(path)


def test_a_task_of_one_kind_reads_the_files_of_its_puzzle() -> None:
    task, path = words(problems="sudoku4"), shared_file("sudoku4/d1_test.csv")
    found = task.load(path, 20)
    with open(path, newline="") as file:
        rows = [row for row, _ in zip(csv.DictReader(file), range(20), strict=False)]
    assert found.labels["problem"].tolist() == [row["Puzzle"] for row in rows]
    assert found.x0 is not None and task.check(found, found.x0).instance_correct.all()
    assert ["".join(text.split()) for text in task.texts(found, found.x0)] == [row["Solution"] for row in rows]


# ---- UPO's layout -------------------------------------------------------------------------------------------------------


def test_prefilled_answers_leave_the_empty_cells_alone_to_be_generated() -> None:
    task = words(problems="sudoku4", prefill=True)
    problem = task.generate(5, 0)
    assert problem.x0 is not None and (problem.maskable.sum(dim=1) == 8).all()
    assert task.check(problem, problem.x0).instance_correct.all()
    given = task._answer_of(problem.tokens[0], problem.tokens[0])
    cells = task.symbols.decode(given).replace("\n", "")
    assert cells.replace("_", "0") == problem.labels["problem"][0]
    assert torch.equal(task.parse(task.problem_text(problem.tokens[0])).tokens[0], problem.tokens[0])


def test_upo_s_own_prompt_and_its_tags() -> None:
    task = words(problems="sudoku4", prompt="upo", prefill=True, longest=900)
    problem = task.parse("3102200002100320")
    asked = task.format(problem.tokens[0])
    assert asked.startswith("Please solve the following 4x4 Sudoku puzzle. The puzzle is provided as a 16-character string")
    assert asked.endswith("puzzle:\n3102\n2000\n0210\n0320\n<answer>\n31_2\n2___\n_21_\n_32_\n</answer>")
    free = words(problems="sudoku4", prompt="upo", longest=900)
    problem = free.parse(PROBLEMS["sudoku4"][0])
    assert problem.x0 is not None and free.texts(problem, problem.x0) == [PROBLEMS["sudoku4"][1]]
    rambling = answered(free, problem, PROBLEMS["sudoku4"][1] + "\n</answer> etc.", "1234 </answer>")
    assert check(free, problem, rambling) == [True, False]


def test_a_denoiser_serves_fewer_kinds_and_prefilled_answers_but_no_others() -> None:
    trained = words(problems="sudoku4,addition")
    assert trained.variant({"problems": "sudoku4", "prefill": True}).prefill
    with pytest.raises(BadInput, match="the denoiser is for words with other options than problems=zebra"):
        trained.variant({"problems": "zebra"})
    with pytest.raises(BadInput, match="length=39"):
        trained.variant({"length": 39})


# ---- the tokens of other models -----------------------------------------------------------------------------------------


def test_prompts_in_the_tokens_of_a_model_with_a_chat_template(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from anyorder.denoisers.huggingface import HuggingFaceDenoiser
    from anyorder.zoo.matching import task_for

    denoiser = HuggingFaceDenoiser.from_pretrained(save_llada(tmp_path / "llada"), trust_remote_code=True)
    task = task_for(denoiser, "words", longest=400)
    assert isinstance(task, Words)
    assert (task.mask_token_id, task.ends, task.stops_at.tokens[0]) == (MASK, {END, TURN_END}, END)
    problems = task.generate(8, 1)
    assert problems.x0 is not None and task.check(problems, problems.x0).instance_correct.all()
    assert [task.problem_text(row).partition(": ")[2] for row in problems.tokens] == problems.labels["problem"].tolist()
    text = task.symbols.decode(problems.tokens[1].tolist())
    assert text.startswith("user\n\nWhat is ") and text.endswith("?assistant\n\nAnswer:\n" + 40 * "_")
    report = evaluate(denoiser, task, problems, ["confidence"], [10])
    assert report.results[0].by_difficulty.keys() == KINDS.keys()


def test_the_recipe_for_llada_runs_on_a_tiny_one(tmp_path: Path) -> None:
    save_llada(tmp_path / "llada")
    small = ["data.size=4", "run.steps=2", "run.batch_size=6", "update.inner=1", "update.imitation=1", "policy.width=8"]
    found = load_recipe(
        "words-llada-upo",
        [f"denoiser={tmp_path / 'llada'}", *small, "policy.heads=2", "rollout.steps=3", "task.options.longest=1100"],
    )
    assert run_recipe(found, tmp_path / "order", trust_remote_code=True).finished


def test_a_tokenizer_that_ends_nothing_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from anyorder.tasks.tokenizer_alphabet import TokenizerAlphabet

    tokenizer = save_tokenizer(tmp_path, chat=False)
    tokenizer.eos_token = None
    with pytest.raises(BadInput, match="no token that ends a text"):
        words(alphabet=TokenizerAlphabet(tokenizer, 272, MASK))


# ---- recipes ------------------------------------------------------------------------------------------------------------

SMALL = ["denoiser.width=16", "denoiser.layers=1", 'denoiser.heads=["everything"]', "data.size=40", "run.steps=2"]


def test_the_recipes_run_from_the_denoiser_to_upo(tmp_path: Path) -> None:
    own = ["run.batch_size=6", "data.size=40"]
    assert run_recipe(load_recipe("words-denoiser", [*SMALL, *own]), tmp_path / "model").finished
    given = [*own, f"denoiser={tmp_path / 'model'}"]
    order = [*given, "run.steps=1", "policy.width=8", 'policy.heads=["everything"]']
    assert run_recipe(load_recipe("words-order", order), tmp_path / "order").finished
    upo = [*given, "run.steps=4", "policy.width=8", "policy.heads=2", "update.imitation=1"]
    assert run_recipe(load_recipe("words-upo", upo), tmp_path / "upo").finished
