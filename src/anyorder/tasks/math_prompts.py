"""Prompts for questions: templates, few-shot examples, and the files of questions."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from anyorder.errors import BadInput
from anyorder.tasks.math_answers import is_number, last_box
from anyorder.tasks.problem_files import PROBLEM, SOLUTION, Unreadable, pick, read_rows

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


def read_problems(path: str | Path, limit: int | None = None, unreadable: Unreadable | None = None) -> list[Problem]:
    """Problems like those of GSM8K or MATH, as rows of JSON or CSV: `question` and `answer` (a number, or a text that ends in
    `#### 42`), or `problem` and `solution` (which ends in a box), and perhaps `answer` and `level`.

    Raises:
        BadInput: no such file, another layout, or a row without question or answer; the error says which.
    """
    return read_rows(path, limit, _problem, "problems", PROBLEM, unreadable)


def _problem(row: Mapping[str, Any]) -> Problem:
    question, solution, reference = pick(row, PROBLEM), _text(pick(row, SOLUTION)), _text(row.get("answer"))
    if not isinstance(question, str) or not question.strip() or not solution:
        raise BadInput('expected a text "question" and an "answer", or a text "problem" and a "solution"')
    worked_out = bool(_text(row.get("solution")) and reference)  # else the answer is the solution
    answer = (reference_in(reference) or reference) if worked_out else reference_in(solution)
    if not answer:
        raise BadInput("the solution gives no answer: it must end in '#### 42', hold a \\boxed{42}, or be a number")
    level = re.sub(r"level\s+", "", str(pick(row, ("level",)) or ""), flags=re.IGNORECASE)
    return Problem(question.strip(), answer, solution, level)


def _text(value: Any) -> str:
    """A text or a finite number as text, without an exponent; "" for anything else."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return ""
    return str(value) if isinstance(value, int) else f"{Decimal(repr(value)).normalize():f}"


def reference_in(solution: str) -> str:
    """What stands after `####`, else in the last box, else all of it if it is a number; "" if there is no answer."""
    _, marked, answer = solution.rpartition("####")
    return answer.strip() if marked else last_box(solution) or (solution if is_number(solution) else "")
