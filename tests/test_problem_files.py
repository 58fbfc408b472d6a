"""Files of problems as they are found in public: every layout of a problem reads to the same tokens; what cannot be read is one
clear error, or is left out when asked."""

import gzip
import io
import json
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from anyorder.cli import app
from anyorder.errors import BadInput
from anyorder.files import find_file, open_text
from anyorder.session import open_session
from anyorder.tasks import Sudoku, Unreadable, make_task, read_lines, task_class
from anyorder.tasks.math_prompts import read_problems
from anyorder.tasks.problem_files import load_problems
from anyorder.tasks.sequence_files import read_records
from anyorder.training.data import training_problems
from anyorder.training.settings import DataSettings

# ---- Sudoku -------------------------------------------------------------------------------------------------------------

EASY = "080050060460907108005000029970006500000872031300049000004025003010000480603100007"
SOLVED = "789251364462937158135468729978316542546872931321549876894725613217693485653184297"
ROWS = [EASY[at : at + 9] for at in range(0, 81, 9)]
DOTS = EASY.replace("0", ".")
BARS = [" ".join([row[:3], "|", row[3:6], "|", row[6:]]) for row in ROWS]
BANDS = [BARS[:3], BARS[3:6], BARS[6:]]


def lines(*rows: str) -> str:
    return "".join(f"{row}\n" for row in rows)


LAYOUTS = {
    "zeros": lines(EASY, EASY),
    "dots": lines(DOTS, DOTS),
    "underscores": lines(EASY.replace("0", "_"), "", EASY.replace("0", "_")),
    "stars": lines(EASY.replace("0", "*"), EASY.replace("0", "*")),
    "comments": lines("# two puzzles", f"{EASY} # easy", "  # the other", EASY),
    "rows": lines(*ROWS, "", *ROWS),
    "rows without a blank line between": lines(*ROWS, *ROWS),
    "rows with spaces": lines(*map(" ".join, ROWS), "", *map(" ".join, ROWS)),
    "rows with commas": lines(*map(",".join, ROWS), *map(",".join, ROWS)),
    "bars": lines(*BARS, "", *BARS),
    "rules": 2 * lines(*BANDS[0], "------+-------+------", *BANDS[1], "------+-------+------", *BANDS[2], ""),
    "frame": 2 * lines("*-----------*", *(f"|{row[:3]}|{row[3:6]}|{row[6:]}|" for row in ROWS), "*-----------*"),
    "bands": 2 * lines(*BANDS[0], "", *BANDS[1], "", *BANDS[2], "", ""),
    "titles": lines("Grid 01", *ROWS, "Grid 02", *ROWS),
    "sdk": lines("#ASomebody", "[Puzzle]", *(row.replace("0", ".") for row in ROWS), "[Puzzle]", *ROWS),
    "name and rating": lines(f"0000183b305c {EASY} 1.2", f"0000183b305d {EASY} 7"),
    "no header": lines(f"{EASY},{SOLVED}", f"{EASY},{SOLVED}"),
    "letters": lines(*[EASY.translate(str.maketrans("123456789", "ABCDEFGHI"))] * 2),
    "small letters": lines(*[DOTS.translate(str.maketrans("123456789", "abcdefghi"))] * 2),
    "json list": json.dumps([{"puzzle": EASY}, {"puzzle": DOTS}], indent=2),
    "numbers": lines(*[json.dumps({"puzzle": [[int(digit) for digit in row] for row in ROWS]})] * 2),
    "nothing for a blank": lines(*[json.dumps({"puzzle": [int(digit) or None for digit in EASY]})] * 2),
    "texts of rows": lines(*[json.dumps({"puzzle": ROWS})] * 2),
    "a text of rows": lines(*[json.dumps({"puzzle": "\n".join(BARS)})] * 2),
    "semicolons": lines("Name;Puzzle;Solution", f"a;{EASY};{SOLVED}", f"b;{EASY};{SOLVED}"),
    "tabs": lines("puzzle\tid", f"{EASY}\t1", f"{EASY}\t2"),
    "table with a comment": lines("# from somewhere", "", "puzzle,solution", f"{EASY},{SOLVED}", f"{EASY},"),
    "table with rows": 'puzzle,id\n"{0}",1\n"{0}",2\n'.format("\n".join(BARS)),
}
for problem, solution in (("puzzle", "solution"), ("quizzes", "solutions"), ("question", "answer"), ("input", "output")):
    for upper in (str, str.upper, str.title):
        names = [upper(problem), upper(solution)]
        LAYOUTS[f"csv {names}"] = lines("id," + ",".join(names), f"1,{EASY},{SOLVED}", f"2,{DOTS},{SOLVED}")
        LAYOUTS[f"jsonl {names}"] = lines(*[json.dumps(dict(zip(names, (EASY, SOLVED), strict=True)))] * 2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_puzzle_reads_the_same_in_every_layout(layout: str, tmp_path: Path) -> None:
    task, path = Sudoku(3), tmp_path / "some.txt"
    wanted = task.parse(EASY)
    for content in (LAYOUTS[layout], "\ufeff" + LAYOUTS[layout].replace("\n", "\r\n"), LAYOUTS[layout].rstrip("\n")):
        path.write_bytes(content.encode())
        found = task.load(path)
        assert torch.equal(found.tokens, wanted.tokens.expand(2, -1))
        assert wanted.x0 is not None and found.x0 is not None and torch.equal(found.x0, wanted.x0.expand(2, -1))
        with open_text(path) as file:
            assert task_class("sudoku").options_of(file.readline, None) == {"box": 3}
    assert len(task.load(path, limit=1)) == 1


@settings(max_examples=60, deadline=None)
@given(
    box=st.sampled_from([2, 3]),
    blank=st.sampled_from("0._*"),
    alphabet=st.sampled_from(["123456789", "ABCDEFGHI", "abcdefghi"]),
    between=st.sampled_from(["", " ", ",", "|", " ; ", "\t"]),
    boxes=st.sampled_from(["", "|", " | ", "  "]),
    band=st.sampled_from([[], [""], ["---+---"], ["=====", "# a comment"], ["*-----*"]]),
    grids=st.sampled_from([[""], ["", ""], ["Grid 2"], ["# another", ""]]),
    ending=st.sampled_from(["\n", "\r\n", "\r"]),
    shown=st.lists(st.booleans(), min_size=81, max_size=81),
)
def test_a_grid_reads_the_same_however_it_is_drawn(
    tmp_path_factory: pytest.TempPathFactory, box: int, blank: str, alphabet: str, between: str, boxes: str, band: list[str],
    grids: list[str], ending: str, shown: list[bool],
) -> None:  # fmt: skip
    task, side = Sudoku(box), box * box
    digits = SOLVED if box == 3 else "1234341221434321"
    signs = [alphabet[int(digit) - 1] if show else blank for digit, show in zip(digits, shown, strict=False)]
    drawn: list[str] = []
    for row in range(side):
        drawn += band if row % box == 0 and row else []
        cells = [signs[row * side + at : row * side + at + box] for at in range(0, side, box)]
        drawn.append((between + boxes + between).join(between.join(part) for part in cells))
    path = tmp_path_factory.mktemp("grids") / "some.txt"
    path.write_bytes(ending.join([*drawn, *grids, *drawn]).encode())
    wanted = [0 if sign == blank else alphabet.index(sign) + 1 for sign in signs]
    assert task.load(path).tokens.tolist() == [wanted, wanted]
    with open_text(path) as file:
        assert task_class("sudoku").options_of(file.readline, None) == {"box": box}


@pytest.mark.parametrize("layout", ["zeros", "rows", "bars", "rules", "bands", "letters", "a text of rows"])
def test_a_typed_puzzle_may_have_several_lines(layout: str) -> None:
    text = LAYOUTS[layout] if layout != "a text of rows" else "\n".join(BARS)
    half = text[: len(text) // 2] if layout != "a text of rows" else text
    assert torch.equal(Sudoku(3).parse(half).tokens, Sudoku(3).parse(EASY).tokens)


SIXTEEN = {"1-G": "123456789ABCDEFG", "A-P": "ABCDEFGHIJKLMNOP", "0-F": "0123456789ABCDEF"}


@pytest.fixture(scope="module")
def sixteen() -> Any:
    return Sudoku(4).generate(2, seed=0, givens=150)


def spelled(tokens: torch.Tensor, alphabet: Any, blank: str) -> list[str]:
    return [alphabet[digit - 1] if digit else blank for digit in tokens.tolist()]


@pytest.mark.parametrize(
    ("name", "blank"), [(name, blank) for name in SIXTEEN for blank in "0._*" if (name, blank) != ("0-F", "0")]
)
def test_the_digits_of_16x16_are_found_out_from_the_file(name: str, blank: str, sixteen: Any, tmp_path: Path) -> None:
    path, task = tmp_path / "some.txt", Sudoku(4)
    texts = ["".join(spelled(tokens, SIXTEEN[name], blank)) for tokens in sixteen.tokens]
    grids = "\n\n".join("\n".join(text[at : at + 16] for at in range(0, 256, 16)) for text in texts)
    rows = zip(texts, sixteen.x0, strict=True)
    table = [f"{text.lower()},{''.join(spelled(solution, SIXTEEN[name], blank))}" for text, solution in rows]
    for content in ("\n".join(texts), grids, lines("puzzle,solution", *table)):
        path.write_text(content)
        assert torch.equal(task.load(path).tokens, sixteen.tokens)
        with path.open() as file:
            assert Sudoku.options_of(file.readline, None) == {"box": 4}
    assert torch.equal(task.parse(texts[0]).tokens, sixteen.tokens[:1])
    assert Sudoku(4, digits=name).format(sixteen.x0[0]) == "".join(spelled(sixteen.x0[0], SIXTEEN[name], blank))


@pytest.mark.parametrize(("first", "blank"), [(1, 0), (1, None), (0, None)])
def test_16x16_in_numbers(first: int, blank: int | None, sixteen: Any, tmp_path: Path) -> None:
    rows = [[digit + first - 1 if digit else blank for digit in tokens.tolist()] for tokens in sixteen.tokens]
    path = tmp_path / "some.jsonl"
    path.write_text("".join(json.dumps({"puzzle": row}) + "\n" for row in rows))
    assert torch.equal(Sudoku(4).load(path).tokens, sixteen.tokens)
    path.write_text(
        "\n".join(" ".join("." if n is None else str(n) for n in row[at : at + 16]) for row in rows for at in range(0, 256, 16))
    )
    assert torch.equal(Sudoku(4).load(path).tokens, sixteen.tokens)
    assert Sudoku(4, digits=(1, 16)).digits == "1-16", "as the command line reads it"


def test_digits_that_may_be_two_alphabets_must_be_named(sixteen: Any, tmp_path: Path) -> None:
    tokens = sixteen.tokens[0].clone()
    tokens[tokens == 16] = 0
    path = tmp_path / "some.txt"
    path.write_text("".join(spelled(tokens, SIXTEEN["1-G"], ".")))
    with pytest.raises(BadInput, match=r"some\.txt: the digits may be 1-G or 0-F, .*\(--task-option digits=1-G\)"):
        Sudoku(4).load(path)
    assert torch.equal(Sudoku(4, digits="1-G").load(path).tokens[0], tokens)
    with pytest.raises(BadInput, match="digits '0-9' is unknown: use one of 1-G, A-P, 0-F, 1-16, 0-15"):
        Sudoku(4, digits="0-9")
    assert Sudoku(4).serves(Sudoku(4, digits="0-F")) and not Sudoku(3).serves(Sudoku(2))


def test_errors_speak_of_digits_as_the_file_has_them(tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("1F0E1" + "." * 251)
    with pytest.raises(BadInput, match="the puzzle has the digit 1 twice in row 1"):
        Sudoku(4).load(tmp_path / "some.txt")


def test_a_file_of_two_alphabets_is_read_in_one_of_them(tmp_path: Path) -> None:
    path = tmp_path / "some.txt"
    path.write_text("1030041000404001\nA000000000000000\n0000000000000000\n")
    with pytest.raises(BadInput, match="line 2: character 'A' at row 1, column 1 is no digit: use 1-4"):
        Sudoku(2).load(path)
    assert len(Sudoku(2).load(path, unreadable=Unreadable(skip=True))) == 2


CLASH = "11" + "0" * 79
NO_SOLUTION = "123456780000000009" + "0" * 63


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CLASH, "line 1: the puzzle has the digit 1 twice in row 1"),
        (f"puzzle,solution\n{CLASH},{SOLVED}", "line 2: the puzzle has the digit 1 twice in row 1"),
        (NO_SOLUTION, "line 1: this puzzle has no solution"),
        (lines(*ROWS[:8], "", *ROWS), "line 1: this grid has 8 rows; a 9x9 grid has 9"),
        (lines(*ROWS[:6], "", *ROWS), "line 1: this grid has 6 rows"),
        (lines(*ROWS, *ROWS[:6]), "line 10: this grid has 6 rows"),
        (EASY[:-1], "line 1: '0800.*' has 80 characters; a file holds puzzles of 81 .* or it is JSON lines, a JSON list"),
        ("a,b\n1,2\n", "has 2 characters; a file holds .* with a column puzzle, puzzles, quizzes"),
        ('{"grid": 3}', "line 1: there is no puzzle: expected a column puzzle, .* or input"),
        ('{"puzzle": 3}', "line 1: the puzzle '3' is neither a text nor a list"),
        ('{"puzzle": [true]}', "line 1: the cell 'True' is neither a number nor a text"),
        ("", "holds no puzzles: it is empty"),
        ("# nothing\n\n", "holds no puzzles: it is empty"),
        *[
            (f"puzzle,rating\n{EASY},1\n{EASY},{rating}\n", f"line 3: the rating '{rating}' is no finite number")
            for rating in ("nan", "inf", "hard", "-1e999")
        ],
        (f"{EASY} nan", "line 1: the rating 'nan' is no finite number"),
        (json.dumps({"puzzle": EASY, "rating": [1]}), "the rating '.1.' is no finite number"),
    ],
)  # fmt: skip
def test_what_is_no_puzzle_is_one_clear_error(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text(content)
    with pytest.raises(BadInput, match=message):
        Sudoku(3).load(tmp_path / "some.txt")


def test_either_all_puzzles_have_a_rating_or_none(tmp_path: Path) -> None:
    path = tmp_path / "some.txt"
    path.write_text(f"{EASY} 1\n{EASY}\n")
    with pytest.raises(BadInput, match=r"some\.txt: 1 of 2 puzzles have no rating: all must have one, or none"):
        Sudoku(3).load(path)
    path.write_text(f"puzzle,rating\n{EASY},1\n{EASY},\n")
    with pytest.raises(BadInput, match="line 3: the rating '' is no finite number"):
        Sudoku(3).load(path)


@pytest.mark.parametrize("layout", ["name and rating", "rating"])
def test_ratings_are_kept_as_a_label(layout: str, tmp_path: Path) -> None:
    content = LAYOUTS.get(layout, f"puzzle,Rating\n{EASY},1.2\n{EASY},7\n")
    (tmp_path / "some.txt").write_text(content)
    assert Sudoku(3).load(tmp_path / "some.txt").labels["rating"].tolist() == [1.2, 7.0]


def test_solutions_that_a_file_does_not_give_are_computed(tmp_path: Path) -> None:
    path = tmp_path / "some.csv"
    path.write_text(f"puzzle,solution\n{EASY},{SOLVED}\n{EASY},\n")
    assert Sudoku(3).load(path).x0 is not None
    path.write_text(f"{EASY}\n{'0' * 81}\n")
    assert Sudoku(3).load(path).x0 is None, "the second puzzle has many solutions"


# ---- formulas -----------------------------------------------------------------------------------------------------------

CLAUSES = [[1, -2, 3], [-1, 2, 4]]
DIMACS = "c a comment\nc\np cnf 4 2\n"
FORMULAS = {
    "dimacs": DIMACS + "1 -2 3 0\n-1 2 4 0\n",
    "satlib": DIMACS + " 1 -2 3 0\n-1 2 4 0\n%\n0\n\n",
    "one line": DIMACS + "1 -2 3 0 -1 2 4 0",
    "several lines": DIMACS + "1\n-2 3\n0 -1 2\nc between\n4 0\n",
    "no last zero": DIMACS + "1 -2 3 0\n-1 2 4\n",
    "fewer variables than the task": DIMACS + "+1 -2 3 0\n-1 2 4 0\n",
    "text": "# a comment\n1,-2,3/-1,2,4\n",
    "lists": json.dumps({"n": 4, "clauses": CLAUSES}),
    "json list": json.dumps([{"formula": CLAUSES}]),
    "csv": 'id,Input,Output\n1,"1,-2,3/-1,2,4","1,2,3,4"\n',
    "jsonl": json.dumps({"input": "1,-2,3/-1,2,4", "output": "1,2,3,4"}),
}


@pytest.mark.parametrize("layout", FORMULAS)
def test_a_formula_reads_the_same_in_every_layout(layout: str, tmp_path: Path) -> None:
    task = make_task("sat", variables=5 if "fewer" in layout else 4, clauses=2)
    wanted = task.parse("1,-2,3/-1,2,4")
    for content in (FORMULAS[layout], "\ufeff" + FORMULAS[layout].replace("\n", "\r\n")):
        (tmp_path / "some.cnf").write_bytes(content.encode())
        assert torch.equal(task.load(tmp_path / "some.cnf").tokens, wanted.tokens)
    if layout.startswith(("dimacs", "satlib", "lists")):
        with open_text(tmp_path / "some.cnf") as file:
            assert task_class("sat").options_of(file.readline, None) == {"variables": 4, "clauses": 2}


def test_several_formulas_of_dimacs_follow_each_other(tmp_path: Path) -> None:
    (tmp_path / "some.cnf").write_text(FORMULAS["satlib"] + FORMULAS["several lines"])
    assert len(make_task("sat", variables=4, clauses=2).load(tmp_path / "some.cnf")) == 2


ALL_SIGNS = [[a, 2 * b, 3 * c] for a in (1, -1) for b in (1, -1) for c in (1, -1)]


@pytest.mark.parametrize(
    ("content", "clauses", "message"),
    [
        ("p cnf 9 2\n1 2 3 0 4 5 9 0\n", 2, "line 1: this formula has 9 variables; the task is set up for 5"),
        (DIMACS + "1 2 3 0\n", 2, "line 3: the header announces 2 clauses; there are 1"),
        (DIMACS + "1 2 x 0\n", 2, "line 3: 'x' is no literal of DIMACS"),
        (DIMACS + "1 2 0 3 4 5 0\n", 2, "line 3: clause 1 has 2 literals, not 3"),
        ("c only\n1 2 3 0\n", 1, "'1' is no header of DIMACS CNF"),
        ("p sat 3\n", 1, "'p sat 3' is no header of DIMACS CNF"),
        ("p cnf 5 8\n" + "".join(f"{a} {b} {c} 0\n" for a, b, c in ALL_SIGNS), 8, "line 1: this formula has no model"),
        ('{"input": "1,2,3", "output": "-1,-2,-3,4,5"}', 1, "does not satisfy the formula"),
        ("nonsense\n", 1, "'nonsense' is no formula: formulas are read from DIMACS CNF, from lines such as 1,-2,3"),
        ('{"n": "x", "clauses": []}', 1, "the number of variables 'x' is no whole number"),
        ("1,2," + "9" * 5000, 1, "clause 1 has the literal"),
    ],
)  # fmt: skip
def test_what_is_no_formula_is_one_clear_error(content: str, clauses: int, message: str, tmp_path: Path) -> None:
    (tmp_path / "some.cnf").write_text(content)
    with pytest.raises(BadInput, match=message):
        make_task("sat", variables=5, clauses=clauses).load(tmp_path / "some.cnf")


def test_a_typed_formula_without_a_model_is_the_same_error() -> None:
    with pytest.raises(BadInput, match="this formula has no model"):
        make_task("sat", variables=5, clauses=8).parse("/".join(",".join(map(str, clause)) for clause in ALL_SIGNS))


# ---- mathematics --------------------------------------------------------------------------------------------------------

QUESTION = "How much is 6 times 7?"
MATH = {
    "gsm8k": json.dumps({"question": QUESTION, "answer": "6*7=42\n#### 42"}),
    "math": json.dumps({"problem": QUESTION, "solution": "It is \\boxed{42}.", "level": "Level 3"}),
    "a number": json.dumps({"Question": QUESTION, "Answer": 42}),
    "a decimal number": json.dumps({"input": QUESTION, "output": 42.0}),
    "a number as text": json.dumps({"question": QUESTION, "answer": " 42 "}),
    "solution and number": json.dumps({"problem": QUESTION, "solution": "Multiply.", "answer": 42}),
    "solution and marked answer": json.dumps({"problem": QUESTION, "solution": "Multiply.", "answer": "So #### 42"}),
    "no solution": json.dumps({"problem": QUESTION, "solution": None, "answer": "#### 42"}),
    "list": json.dumps([{"question": QUESTION, "answer": 42}], indent=1),
    "csv": f"id,question,answer\n1,{QUESTION},42\n",
    "csv with lines": f'question;answer\n{QUESTION};"Well,\n#### 42"\n',
}


@pytest.mark.parametrize("layout", MATH)
def test_a_question_reads_the_same_in_every_layout(layout: str, tmp_path: Path) -> None:
    for content in (MATH[layout], "\ufeff" + MATH[layout].replace("\n", "\r\n")):
        (tmp_path / "some.json").write_bytes(content.encode())
        (problem,) = read_problems(tmp_path / "some.json")
        assert (problem.question, problem.answer) == (QUESTION, "42")
        assert problem.level == ("3" if layout == "math" else "")


def test_a_field_with_a_comma_that_is_not_in_quotes_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "questions.csv"
    path.write_text("question,answer\nWhat is the sum of 3, 4, and 5?,12\n")
    with pytest.raises(BadInput, match="line 2: 4 fields where the header names 2: put a field with separators in quotes"):
        read_problems(path)
    path.write_text("question,answer\nWhat is 2 + 3?,5,,\n")
    assert [problem.answer for problem in read_problems(path)] == ["5"], "empty fields at the end say nothing"


@pytest.mark.parametrize("answer", [True, None, [42], float("nan"), "forty-two", ""])
def test_what_is_no_answer_is_refused(answer: Any, tmp_path: Path) -> None:
    (tmp_path / "some.jsonl").write_text(json.dumps({"question": QUESTION, "answer": answer}))
    with pytest.raises(BadInput, match=r"line 1: (expected a text|the solution gives no answer)"):
        read_problems(tmp_path / "some.jsonl")


def test_numbers_are_written_without_an_exponent(tmp_path: Path) -> None:
    numbers = [1e20, 0.00001, 1e-7, 12, -3.50, 10**20]
    (tmp_path / "some.jsonl").write_text("".join(json.dumps({"question": "?", "answer": n}) + "\n" for n in numbers))
    answers = [problem.answer for problem in read_problems(tmp_path / "some.jsonl")]
    assert answers == ["100000000000000000000", "0.00001", "0.0000001", "12", "-3.5", "100000000000000000000"]


def test_another_layout_is_named(tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("What is 1 and 1?\n2\n")
    with pytest.raises(BadInput, match="problems are read from JSON lines, a JSON list or CSV with a column puzzle"):
        read_problems(tmp_path / "some.txt")


# ---- sequences ----------------------------------------------------------------------------------------------------------

PROTEINS = {
    "a.fasta": ">one first\nACDE\nFG\n>two\nAXC\n",
    "b.fasta": ";an old comment\n>one\nacde\nfg\n\n>two\naxc*\n",
    "c.fasta": ">one\nAC-DE..\nFG--\n>two\nA-XC*\n",
    "d.a3m": ">one\nACdeFG\n>two\nA-xC\n",
    "e.faa.gz": ">one\nACD EFG\n>two\nAXC\n",
    "f.tsv": "id\tsequence\n1\tACDEFG\n2\tAXC\n",
    "g.json": '[{"sequence": "ACDEFG"}, "AXC"]',
    "h.csv": "id;Sequence\n1;ACDEFG\n2;AXC\n",
    "i.csv": "# two, of somebody\n\n#\nsequence,id\nACDEFG,1\nAXC,2\n",
    "j.tsv": "# two\nid\tsequence\n1\tACDEFG\n2\tAXC\n",
}


@pytest.mark.parametrize("name", PROTEINS)
def test_a_protein_reads_the_same_in_every_layout(name: str, tmp_path: Path) -> None:
    task, path = make_task("protein"), tmp_path / name
    wanted = task.encode(["ACDEFG", "AXC"])  # type: ignore[attr-defined]
    for content in (PROTEINS[name].encode(), b"\xef\xbb\xbf" + PROTEINS[name].replace("\n", "\r\n").encode()):
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        found = task.load(path)
        assert torch.equal(found.tokens, wanted.tokens) and torch.equal(found.x0, wanted.x0)


MOLECULES = {
    "a.smi": "CCO ethanol\nc1ccccc1 benzene, or benzol\n",
    "b.smi": "SMILES NAME\nCCO\tethanol\nc1ccccc1\tbenzene, or benzol\n",
    "c.smiles": "canonical_smiles,id\nCCO,ethanol\nc1ccccc1,benzene, or benzol\n",
    "d.smi": "# a comment\n\nCCO ethanol\n  c1ccccc1   benzene, or benzol  \n",
    "e.smi": "# a comment\n\nSMILES NAME\nCCO ethanol\n# another\nc1ccccc1 benzene, or benzol\n",
}


@pytest.mark.parametrize("name", MOLECULES)
def test_a_molecule_reads_the_same_in_every_layout(name: str, tmp_path: Path) -> None:
    for content in (MOLECULES[name], "\ufeff" + MOLECULES[name].replace("\n", "\r\n")):
        (tmp_path / name).write_bytes(content.encode())
        found = [(record.text, record.name) for record in read_records(tmp_path / name)]
        assert found == [("CCO", "ethanol"), ("c1ccccc1", "benzene, or benzol")]


# ---- other tasks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        '{"input": "30,100,93", "output": "23"}',
        '{"input": "30,100,93,23", "output": "30-100=70"}'.replace('"30-100=70"', '"100-93=7,30-7=23"'),
        '{"nums": [30, 100, 93], "target": 23}',
        '[{"Numbers": [30, 100, 93], "Target": 23}]',
        'input,output\n"30,100,93",23\n',
    ],
)
def test_a_problem_of_countdown_reads_the_same_in_every_layout(content: str, tmp_path: Path) -> None:
    (tmp_path / "some.json").write_text(content)
    task = make_task("countdown", numbers=3)
    assert torch.equal(task.load(tmp_path / "some.json").tokens, task.parse("30,100,93,23").tokens)
    with (tmp_path / "some.json").open() as file:
        assert task_class("countdown").options_of(file.readline, None) == {"numbers": 3}


_CLUES = ["B1 << A1", "A3 ~ C3", "A3 < B2", "B1 < C1", "B1 = C3"]


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("arithmetic", "\n12*34\n", {"operation": "multiply", "digits": 2}),
        ("sorting", " \n\n5,3,9,3\n", {"items": 4}),
        ("tsp", "\n0,0 3,12 15,4 7,7\n", {"cities": 4}),
        ("zebra", f"\n{json.dumps({'clues': _CLUES})}\n", {"houses": 3, "attributes": 3}),
        ("zebra", f"# easy\n{json.dumps({'clues': _CLUES})}\n", {"houses": 3, "attributes": 3}),
        ("zebra", json.dumps([{"clues": _CLUES}], indent=1), {"houses": 3, "attributes": 3}),
    ],
)
def test_the_size_is_read_off_the_first_problem_wherever_it_begins(
    name: str, content: str, options: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "problems").write_text(content)
    with (tmp_path / "problems").open() as file:
        assert task_class(name).options_of(file.readline, None) == options
    assert len(make_task(name, **options).load(tmp_path / "problems")) == 1


# ---- problems that cannot be read -----------------------------------------------------------------------------------------

BAD = {
    "sudoku.csv": ({"box": 2}, "quiz,answer\n1030041000404001,1234341221434321\n11,\n1130000000000000,\n0000000000000000,\n"),
    "sudoku.txt": ({"box": 2}, "1030\n04x0\n0040\n4001\n\n1030\n0410\n0040\n4001\n\n1030\n\n1030041000404001\n"),
    "sat.jsonl": ({"variables": 4, "clauses": 1}, '{"input": "1,2,3"}\n{"input": "1,2"}\n{\n{"input": "-1,2,4"}\n'),
    "sat.cnf": ({"variables": 4, "clauses": 1}, "p cnf 4 1\n1 2 3 0\np cnf 4 2\n1 2 3 0\np cnf 9 1\n1 2 9 0\n"
                                                "p cnf 4 1\n1 2 -3 0\n"),
    "zebra.jsonl": ({"houses": 3, "attributes": 3}, '{"clues": ["B1 << A1", "A3 ~ C3", "A3 < B2", "B1 < C1", "B1 = C3"]}\n'
                    '{"clues": ["A1 < A2", "A2 < A1"]}\n{"clues": 3}\n'
                    '{"clues": ["B1 << A1", "A3 ~ C3", "A3 < B2", "B1 < C1", "B1 = C3", "A1 at 3"]}\n'),
    "countdown.jsonl": ({"numbers": 3}, '{"nums": [1, 2, 3], "target": 6}\n[]\n{"nums": [1, 1, 1], "target": 99}\n'
                                        '{"nums": [2, 2, 3], "target": 7}\n'),
    "sorting.txt": ({"items": 3, "values": 9}, "1,2,3\n1,2\n9,9,9\n3,2,1\n"),
    "arithmetic.txt": ({"digits": 3}, "1+2\n1*2\n1+2=4\n123+456=579\n"),
    "tsp.txt": ({"cities": 4, "grid": 8}, "0,0 3,7 5,4 7,7\n0,0 0,0 1,1 2,2\nx\n0,1 2,3 4,5 6,7\n"),
    "protein.fasta": ({}, ">a\nACD\n>b\nA1\n>c\n>d\nAC_E\n"),
    "text.jsonl": ({}, '"a dog"\n{"text": 3}\n{\n"a cat"\n'),
    "molecules.smi": ({}, "CCO ethanol\nQQ\n" + "C" * 99 + "\nCCN\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_problems_that_cannot_be_read_are_left_out_when_asked(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, content = BAD[name]
    task, path = make_task(name.partition(".")[0], **options), tmp_path / name
    path.write_text(content)
    with pytest.raises(BadInput, match=r"\(--skip-unreadable"):
        load_problems(task, path, hint="--skip-unreadable leaves such problems out")
    assert len(load_problems(task, path, skip_unreadable=True)) == 2
    assert f"{name}: 2 left out because they cannot be read; the first: {path}, " in capsys.readouterr().err
    assert len(load_problems(task, path, limit=2, skip_unreadable=True)) == 2, "the limit counts what is read"


def test_where_nothing_can_be_read_it_is_an_error_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("1,2\n5\n")
    with pytest.raises(BadInput, match=r"holds no sequences: 2 left out because they cannot be read; the first: .*line 1"):
        make_task("sorting", items=3).load(tmp_path / "some.txt", unreadable=Unreadable(skip=True))


def test_a_task_of_another_package_need_not_leave_out_anything(tmp_path: Path) -> None:
    class Plain(Sudoku):
        def load(self, path: Any, limit: int | None = None) -> Any:  # type: ignore[override]
            return self.parse("1030041000404001")

    assert len(load_problems(Plain(2), tmp_path)) == 1
    with pytest.raises(BadInput, match="its `load` takes no `unreadable`"):
        load_problems(Plain(2), tmp_path, skip_unreadable=True)


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "--data", "FILE", "--orders", "confidence", "--steps", "2"],
        ["pareto", "--data", "FILE", "--orders", "confidence@linear:2"],
        ["headroom", "--data", "FILE", "--steps", "2"],
        ["sample", "FILE", "--order", "confidence", "--steps", "all"],
    ],
    ids=lambda command: command[0],
)
def test_every_command_leaves_out_what_cannot_be_read(command: list[str], tmp_path: Path) -> None:
    path = tmp_path / "some.txt"
    path.write_text("1030041000404001\n1130000000000000\n1030041000404001\n")
    words = [str(path) if word == "FILE" else word for word in command]
    refused = CliRunner().invoke(app, words)
    assert isinstance(refused.exception, BadInput)
    assert "line 2: the puzzle has the digit 1 twice in row 1: it has no solution (--skip-unreadable" in str(refused.exception)
    done = CliRunner().invoke(app, [*words, "--skip-unreadable"])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    assert "1 left out because they cannot be read" in done.stderr


def test_a_recipe_leaves_out_what_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "some.txt"
    path.write_text("1030041000404001\n1130000000000000\n1030041000404001\n")
    data = DataSettings(size=5, file=str(path))
    with pytest.raises(BadInput, match=r"line 2: .*\(data\.skip_unreadable=true leaves such problems out\)"):
        training_problems(Sudoku(2), data)
    assert len(training_problems(Sudoku(2), data.model_copy(update={"skip_unreadable": True}))) == 2


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("sudoku", "1130000000000000"),
        ("sudoku", "1230000400000000"),
        ("countdown", "1,1,1,99"),
        ("sorting", "1,2"),
        ("arithmetic", "1+2=4"),
        ("tsp", "0,0 0,0 1,1 2,2"),
    ],
)
def test_a_problem_that_contradicts_itself_is_the_same_error_typed_and_in_a_file(task: str, text: str, tmp_path: Path) -> None:
    options = {"sudoku": {"box": 2}, "countdown": {"numbers": 3}, "sorting": {"items": 3}, "tsp": {"cities": 4}}.get(task, {})
    path = tmp_path / "some.txt"
    path.write_text(text if task != "countdown" else json.dumps({"nums": [1, 1, 1], "target": 99}))
    with pytest.raises(BadInput) as typed:
        make_task(task, **options).parse(text)
    with pytest.raises(BadInput) as read:
        make_task(task, **options).load(path)
    assert str(read.value) == f"{path}, line 1: {typed.value}"


ATOMS = [
    "-", "-x", "*", " ", "1 ", "1", "1,", ",", "/", ";", "\n", "(", "[", "_", "A1 ", "A1 = ", "A1 between B2 ", "a and",
    " and ", "0,0 ", "smile", "_{1}", "_{", "<mask", "\t", "|", "#", "c ", "p cnf ", "1 0 ", "%", "{", '"',
]  # fmt: skip
TASKS_TO_HURRY: dict[str, dict[str, int]] = {
    "sudoku": {"box": 2}, "sat": {"variables": 5}, "countdown": {}, "zebra": {}, "sorting": {}, "tsp": {}, "text": {},
    "arithmetic": {}, "protein": {}, "molecules": {},
}  # fmt: skip


@pytest.mark.parametrize("name", TASKS_TO_HURRY)
def test_reading_takes_time_in_proportion_to_the_length(name: str, tmp_path: Path) -> None:
    task, path = make_task(name, **TASKS_TO_HURRY[name]), tmp_path / "some.txt"
    before = "A1 between B2" if name == "zebra" else ""
    with suppress(BadInput):
        task.parse(before)  # numba compiles what it runs
    started = time.process_time()
    for atom in ATOMS:
        text = before + atom * (45_000 // len(atom)) + "!"
        path.write_text(text)
        for read in (lambda: task.parse(text), lambda: task.load(path), lambda: type(task).options_of(None, text)):  # noqa: B023
            with suppress(BadInput):
                read()
    assert time.process_time() - started < 5


# ---- what is no file, or too large ----------------------------------------------------------------------------------------


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A pipe that nobody writes to: opening it waits for ever."""
    os.mkfifo(tmp_path / "pipe.csv")
    return tmp_path / "pipe.csv"


def test_a_pipe_is_refused_and_not_waited_for(pipe: Path) -> None:
    refused: list[str] = []

    def read() -> None:
        for use in (
            lambda: Sudoku(2).load(pipe),
            lambda: open_session(task="sudoku", data=pipe),
            lambda: open_session(task="sudoku", problem=str(pipe)),
            lambda: list(read_records(find_file(pipe))),
        ):
            with pytest.raises(BadInput, match="is a pipe or a device: write what it gives into a file"):
                use()
            refused.append("so")

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(timeout=60)
    assert len(refused) == 4


PACKED = {
    "puzzles.txt": ("sudoku", {"box": 2}, "0000400001030001\n" * 3_000),
    "grids.sdk": ("sudoku", {"box": 2}, "1 . | 3 .\n. 4 | 1 .\n----+----\n. . | 4 .\n4 . | . 1\n"),
    "formula.cnf": ("sat", {"variables": 3, "clauses": 2}, "c two clauses\np cnf 3 2\n1 -2 3 0 -1\n2 3 0\n"),
    "formulas.txt": ("sat", {"variables": 3, "clauses": 2}, "1,-2,3/-1,2,3\n"),
    "sums.txt": ("words", {"problems": "addition"}, "17 + 25\n"),
}


@pytest.mark.parametrize("name", PACKED)
def test_files_that_are_no_tables_are_read_packed_too(name: str, tmp_path: Path) -> None:
    kind, options, content = PACKED[name]
    task = make_task(kind, **options)
    (tmp_path / name).write_text(content)
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
    plain, packed = (task.load(tmp_path / path) for path in (name, f"{name}.gz"))
    assert len(packed) == len(plain) and torch.equal(packed.tokens, plain.tokens)


@pytest.mark.parametrize("name", ["some.csv", "some.csv.gz"])
def test_another_layout_is_the_same_error_packed_or_not(name: str, tmp_path: Path) -> None:
    content = b"nonsense\n0000400001030001\n"
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(BadInput, match=rf"{name}: puzzles are read from JSON lines, .*; this is another layout"):
        make_task("zebra").load(tmp_path / name)


def test_a_packed_file_begins_again_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "some.txt.gz").write_bytes(gzip.compress("\ufefföne\ntwo\n".encode()))
    with open_text(tmp_path / "some.txt.gz") as file:
        assert (next(file), file.seek(0), file.read()) == ("öne\n", 0, "öne\ntwo\n")
        with pytest.raises(io.UnsupportedOperation, match="is read from its beginning"):
            file.seek(0, os.SEEK_END)


def test_a_gzip_bomb_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.txt.gz"
    path.write_bytes(gzip.compress(bytes(2**25), 6) * 4)  # 128 MiB of zeros, in 128 KiB
    with pytest.raises(BadInput, match="unpacks to more than 200 times its size"):
        make_task("text").load(path)
    with open_text(path) as file:
        file.read(2**20)
        file.seek(0)
        with pytest.raises(BadInput, match="unpacks to more than 200 times its size"):
            file.read()
    ordinary = "".join(map(str, np.random.default_rng(0).integers(0, 9, 10_000)))
    path.write_bytes(gzip.compress(f"{ordinary}\n".encode() * 2))
    assert len(read_lines(path, None, str.strip, "lines")) == 2


def test_a_table_in_another_format_is_to_be_exported(tmp_path: Path) -> None:
    (tmp_path / "some.parquet").write_bytes(b"PAR1\x15\x04\xff")
    with pytest.raises(BadInput, match=r"some\.parquet is not UTF-8 text: .*; export it as CSV or JSON lines"):
        Sudoku(2).load(tmp_path / "some.parquet")


@pytest.mark.parametrize("task", ["text", "protein", "molecules"])
def test_unknown_symbols_are_counted_before_there_are_tokens_for_them(task: str) -> None:
    with pytest.raises(BadInput, match=r"asks for 999,999,000 unknown symbols; 1,048,576 are the most"):
        make_task(task).parse("_{999999}" * 1000)
    with pytest.raises(BadInput, match="has 999999 symbols; this task takes"):
        make_task(task).parse("_{999999}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "--limit", "9" * 30], "--limit"),
        (["evaluate", "--seed", "9" * 30], "--seed"),
        (["evaluate", "--limit", "2000000000"], "do not fit into memory"),
        (["pareto", "--limit", "2000000000"], "do not fit into memory"),
        (["headroom", "--limit", "2000000000"], "do not fit into memory"),
        (["reproduce", "upo-figure1", "--limit", "2000000000"], "do not fit into memory"),
        (["fit", "--model", "wordnet", "--data", "texts.txt", "--samples", "2000000000"], "do not fit into memory"),
        (["evaluate", "--limit", "2", "--steps", "9" * 30], "a number lies between"),
        (["sample", "1030041000404001", "--number", "9" * 30], "--number"),
        (["sample", "1030041000404001", "--number", "2000000000"], ""),
        (["reproduce", "sudoku-table", "--seeds", "9" * 30], "a number lies between"),
        (["demo", "--limit", "2000000000"], "do not fit into memory"),
        (["train", "sudoku4-order", "--set", "data.size=2000000000"], "do not fit into memory"),
        (["evaluate", "--draws", "9" * 30], "--draws"),
        (["train", "sudoku4-order", "--set", f"seed={'9' * 18}"], "seed"),
        (["train", "sudoku4-order", "--set", f"data.seed={'9' * 18}"], "data.seed"),
    ],
)
def test_huge_numbers_are_refused(
    words: list[str], message: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("data"))
    Path("texts.txt").write_text("\n".join("abcdefghijkl"))
    out = ["--out", str(tmp_path)] if words[0] in ("reproduce", "train", "demo", "fit") else []
    result = CliRunner().invoke(app, [*words, *out])
    assert result.exit_code != 0
    assert message in result.output + str(result.exception)
    assert isinstance(result.exception, BadInput | SystemExit)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [["evaluate", "--orders", "confidence", "--data"], ["sample"]])
def test_a_limit_above_the_problems_of_a_file_is_all_of_them(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "puzzles.txt").write_text("1030041000404001\n" * 2)
    result = CliRunner().invoke(app, [*command, str(tmp_path / "puzzles.txt"), "--limit", str(2**31 - 1), "--model", "sudoku4"])
    assert result.exit_code == 0, result.output


def test_the_largest_seed_works() -> None:
    result = CliRunner().invoke(
        app, ["evaluate", "--limit", "2", "--steps", "2", "--seed", str(2**31 - 1), "--task-option", "box=2"]
    )
    assert result.exit_code == 0, result.output
