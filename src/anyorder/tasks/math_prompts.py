"""Prompts for questions: templates, few-shot examples, and the files of questions."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from anyorder.errors import BadInput
from anyorder.files import open_text, parse_json, read_json
from anyorder.tasks.base import read_lines
from anyorder.tasks.math_answers import last_box

_CALCULATOR = re.compile(r"<<[^<>]*>>")


class Problem(NamedTuple):
    """One row of a file. answer: the reference, as it stands in a box; solution: the worked solution; level: "" if unknown."""

    question: str
    answer: str
    solution: str
    level: str = ""


@dataclass(frozen=True)
class Template:
    """A template of prompts.

    Args:
        instruction: stated once, at the beginning.
        question: the form of a question, with {question}.
        solution: the form of a solved example, with {solution} as it is in the file, or its {reasoning} and {answer}.
        start: the first words of the answer, given to the model.
        stop: text at which the answer is cut off, for models that continue with their own question; "" for none.
    """

    instruction: str = ""
    question: str = "{question}"
    solution: str = "\n\n{solution}"
    start: str = ""
    stop: str = ""

    def ask(self, question: str, examples: list[Problem]) -> str:
        """The text before the answer, without `start`."""
        parts = [self.instruction] if self.instruction else []
        for example in examples:
            told = self.solution.format(
                solution=example.solution, reasoning=reasoning_of(example.solution), answer=example.answer
            )
            parts.append(self.question.format(question=example.question) + told)
        return "\n\n".join([*parts, self.question.format(question=question)])


TEMPLATES = {
    "upo": Template(
        "You are a math expert. You will be given a question to solve. Solve it step by step. Wrap the final answer in a "
        "\\boxed{}.\nRespond in the following format:\n<reasoning>\nYour reasoning here\n</reasoning>\n<answer>\n"
        "\\boxed{...}\n</answer>",
        solution="\n\n<reasoning>\n{reasoning}\n</reasoning>\n<answer>\n\\boxed{{{answer}}}\n</answer>",
        start="<reasoning>\n",
    ),
    "plain": Template(),
    "lm_eval": Template(question="Question: {question}\nAnswer:", solution=" {solution}", stop="Question:"),
    "minerva": Template(
        question="Problem:\n{question}\n\nSolution:",
        solution=" {solution}\nFinal Answer: The final answer is ${answer}$. I hope it is correct.",
        stop="Problem:",
    ),
}
"""upo: of UPO (arXiv 2510.05725, appendix E.2; from d1, arXiv 2504.12216). plain: the question alone, as LLaDA's chat takes it.
lm_eval: GSM8K in lm-evaluation-harness. minerva: MATH there, after Minerva (arXiv 2206.14858)."""


def reasoning_of(solution: str) -> str:
    """A solution without its last line `#### 42` and the calculator's marks `<<6*7=42>>` of GSM8K."""
    return _CALCULATOR.sub("", solution.partition("####")[0]).strip()


def read_problems(path: str | Path, limit: int | None = None) -> list[Problem]:
    """Problems of GSM8K or MATH: JSON lines, or one JSON list, of objects with `question` and `answer` (which ends in
    `#### 42`), or with `problem` and `solution` (which ends in a box), and perhaps `answer` and `level`.

    Raises:
        BadInput: no such file, no JSON, or a row without question or answer; the error says which.
    """
    with open_text(path) as file:
        if file.read(1) != "[":
            return read_lines(path, limit, lambda line: _problem(parse_json(line)), "problems")
    found = []
    rows = read_json(path)[:limit]
    for number, row in enumerate(rows, start=1):
        try:
            found.append(_problem(row))
        except ValueError as error:
            raise BadInput(f"{path}, row {number}: {error}") from error
    if not found:
        raise BadInput(f"{path} holds no problems")
    return found


def _problem(row: Any) -> Problem:
    if not isinstance(row, dict):
        raise BadInput("expected an object")
    question = row.get("question", row.get("problem"))
    solution = row.get("solution", row.get("answer"))
    if not isinstance(question, str) or not isinstance(solution, str) or not question.strip():
        raise BadInput('expected the texts "question" and "answer", or "problem" and "solution"')
    answer = row["answer"] if "solution" in row and isinstance(row.get("answer"), str) else reference_in(solution)
    if not answer.strip():
        raise BadInput("the solution gives no answer: it must end in '#### 42', or hold a \\boxed{42}")
    return Problem(question.strip(), answer.strip(), solution.strip(), str(row.get("level", "")))


def reference_in(solution: str) -> str:
    """What stands after `####`, else in the last box; "" if neither is there."""
    _, marked, answer = solution.rpartition("####")
    return answer.strip() if marked else last_box(solution)
