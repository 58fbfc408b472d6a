"""How answers of GSM8K and MATH-500 are judged: every reference against other ways to write it, and against wrong answers.

    python benchmarks/math_equivalence.py ../shared/data/math [--library] [--limit 200]

Prints, for each way, how many answers were judged right, and all that were misjudged. With --library answers are judged by
math-verify alone, without what comes before it here.
"""

import argparse
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

from anyorder.tasks.math_answers import Checker, equivalent, final_answer
from anyorder.tasks.math_prompts import Problem, read_problems

FRACTION = re.compile(r"(-?)\\d?frac(?:\{(-?\d+)\}|\s?(\d))(?:\{(\d+)\}|(\d))")
INTEGER = re.compile(r"-?\d+")
DECIMAL = re.compile(r"-?\d*\.\d+")
TUPLE = re.compile(r"(\\left)?\(\s*(.+?)\s*,\s*(.+?)\s*(\\right)?\)")
PHRASES = {
    "box in a sentence": "So it is $\\boxed{%s}$, as we wanted.",
    "box in a tag": "<answer>\n\\boxed{%s}\n</answer>",
    "tag": "<answer>\n%s\n</answer>",
    "####": "That is all.\n#### %s",
    "answer is": "The answer is $%s$.",
    "Minerva": "Final Answer: The final answer is $%s$. I hope it is correct.",
}
LENIENT = {"base left out", "percent sign", "other unit"}
"""Ways that change what is said a little, and that math-verify takes as right: a matter of taste, counted apart."""


def plain(reference: str) -> str:
    """A reference without separators of thousands, a currency sign, and `x=` before a number."""
    number = re.sub(r"\\!|\\?\$| |x=", "", reference)
    if re.fullmatch(r"-?\d{1,3}(,\d{3})+", number):
        number = number.replace(",", "")
    return number if INTEGER.fullmatch(number) or DECIMAL.fullmatch(number) else reference


def value_of(reference: str) -> Fraction | None:
    """The number that an integer, a decimal or a fraction of integers is."""
    text = plain(reference)
    if INTEGER.fullmatch(text) or DECIMAL.fullmatch(text):
        return Fraction(text)
    match = FRACTION.fullmatch(text)
    if match is None:
        return None
    value = Fraction(int(match[2] or match[3]), int(match[4] or match[5]))
    return -value if match[1] else value


def is_expression(reference: str) -> bool:
    """Can it be added to and multiplied?"""
    return not re.search(r"[=,]|\\(text|mbox|in|cup|pm|begin|\{|circ)|[\[\]]|_|infty|\d\s?\\frac", plain(reference))


def terminates(value: Fraction) -> bool:
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


def same(reference: str) -> Iterator[tuple[str, str]]:
    """(way, text) of answers that say the same."""
    text, value = plain(reference), value_of(reference)
    yield "itself", reference
    yield "spaces", re.sub(r"(?<!\\) (?![A-Za-z])", r"\ ", reference)
    if value is not None and value.denominator == 1:
        n = int(value)
        if abs(n) >= 1000:
            yield "thousands 1,234", f"{n:,}"
            yield "thousands 1{,}234", f"{n:,}".replace(",", "{,}")
            yield "thousands 1,\\!234", f"{n:,}".replace(",", r",\!")
        yield "decimal 18.00", f"{n}.00"
        yield "full stop 18.", f"{n}."
        yield "dollars \\$18", rf"\${n}"
        yield "dollars 18 dollars", f"{n} dollars"
        yield "unit 18 apples", f"{n} apples"
        yield "unit 18\\text{ apples}", rf"{n}\text{{ apples}}"
        yield "text \\text{18}", rf"\text{{{n}}}"
        yield "x = 18", f"x = {n}"
        yield "emphasis **18**", f"**{n}**"
        yield "quotient 36/2", f"{2 * n}/2"
        yield "fraction \\frac{36}{2}", rf"\frac{{{2 * n}}}{{2}}"
        yield "sum 17+1", f"{n - 1}+1"
    elif value is not None and "frac" in text:
        a, b = value.numerator, value.denominator
        yield "\\dfrac", rf"\dfrac{{{a}}}{{{b}}}"
        yield "\\tfrac", rf"\tfrac{{{a}}}{{{b}}}"
        yield "fraction 3/4", f"{a}/{b}"
        yield "fraction not reduced", rf"\frac{{{6 * a}}}{{{6 * b}}}"
        yield (
            "decimal 0.75" if terminates(value) else "decimal 0.333333",
            str(float(value)) if terminates(value) else f"{a / b:.7f}",
        )
        if terminates(value):
            yield "percent 75\\%", rf"{float(100 * value):g}\%"
        if a > b:
            yield "mixed number", rf"{a // b}\frac{{{a % b}}}{{{b}}}"
    elif is_expression(text):
        yield "twice its half", rf"\frac{{2({text})}}{{2}}"
        yield "plus 1 minus 1", f"{text}+1-1"
    if r"\left" in text:
        yield "without \\left", text.replace(r"\left", "").replace(r"\right", "")
    elif re.fullmatch(r"[(\[].*[)\]]", text):
        yield "with \\left", rf"\left{text[:-1]}\right{text[-1]}"
    if r"^\circ" in text:
        yield "without degrees", text.replace(r"^\circ", "")
    if re.search(r"\d ?\\(text|mbox)", text):
        yield "without unit", re.split(r" ?\\(?:text|mbox)", text)[0]
    if re.fullmatch(r"\\text\{\(?\w+\)?\}", text):
        yield "text without \\text", text[6:-1]
    if re.fullmatch(r"[xy] ?(=|\\in) ?.*", text):
        yield "without x =", re.split(r"=|\\in", text)[1].strip()
    if r"\pm" in text and "{" != text[0] != "\\":
        yield "both of \\pm", f"{text.replace(chr(92) + 'pm', '+')}, {text.replace(chr(92) + 'pm', '-')}"
    if re.fullmatch(r"-?\d+(, ?-?\d+)+", text):
        yield "list in another order", ", ".join(reversed(reference.split(",")))
    if "pmatrix" in text:
        yield "square brackets", text.replace("pmatrix", "bmatrix")


def wrong(reference: str) -> Iterator[tuple[str, str]]:
    """(way, text) of answers that say something else."""
    text, value = plain(reference), value_of(reference)
    if value is not None:
        for way, other in {
            "one more": value + 1, "one less": value - 1, "other sign": -value, "ten times": 10 * value, "half": value / 2
        }.items():  # fmt: skip
            if other != value:
                yield way, str(other) if other.denominator == 1 else rf"\frac{{{other.numerator}}}{{{other.denominator}}}"
        if value.denominator > 1 and round(value, 2) != value:
            yield "rounded to 0.01", f"{float(value):.2f}"
        if value.denominator == 1:
            yield "percent sign", rf"{int(value)}\%"
            yield "two answers", f"{int(value)}, {int(value) + 1}"
    elif is_expression(text):
        yield "one more", f"{text}+1"
        yield "other sign", f"-({text})"
        yield "ten times", f"10({text})"
        if "x" in text:
            yield "another variable", text.replace("x", "z")
    pair = TUPLE.fullmatch(text)
    if pair and pair[2] != pair[3] and "," not in pair[2] + pair[3] and "infty" not in text:
        yield "pair turned round", f"({pair[3]}, {pair[2]})"
    if re.fullmatch(r"(\\left)?[(\[].*\]", text):
        yield "other bracket", f"{text[:-1]})"
    if re.fullmatch(r"\d+_\{?\d\}?", text):
        yield "other base", re.sub(r"_.*", "_7" if "_7" not in text else "_6", text)
        yield "base left out", text.split("_")[0]
    if re.search(r"\d ?\\(text|mbox)", text):
        yield "other unit", re.split(r" ?\\(?:text|mbox)", text)[0] + r"\text{ miles}"
    if r"\text{(" in text:
        yield "other letter", r"\text{(A)}"
    if r"\pm" in text:
        yield "one of \\pm", text.replace(r"\pm", "+")
    yield "nothing", "..."


def others(problems: list[Problem], number: int, count: int) -> Iterator[tuple[str, str]]:
    """The references of the next problems, those left out that are the same number or text."""
    own = problems[number].answer
    for problem in (problems[(number + step) % len(problems)] for step in range(1, count + 1)):
        mine, its = value_of(own), value_of(problem.answer)
        if plain(own) != plain(problem.answer) and (mine is None or mine != its):
            yield "another problem's", problem.answer


def judge(
    problems: list[Problem], neighbours: int = 3, by: Callable[[str, str], bool] = equivalent
) -> dict[tuple[bool, str], list[tuple[str, str, bool]]]:
    """(says the same, way) -> (reference, answer, judged right) of every answer."""
    found: dict[tuple[bool, str], list[tuple[str, str, bool]]] = defaultdict(list)
    for number, problem in enumerate(problems):
        reference = problem.answer
        for way, answer in same(reference):
            found[True, way].append((reference, answer, by(reference, answer)))
        for way, answer in [*wrong(reference), *others(problems, number, neighbours)]:
            found[False, way].append((reference, answer, by(reference, answer)))
        for way, phrase in PHRASES.items():
            read = final_answer(phrase % reference)
            found[True, way].append((reference, phrase % reference, read is not None and by(reference, read.text)))
        solved = final_answer(problem.solution)
        found[True, "the solution itself"].append((reference, problem.solution, by(reference, solved.text)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of gsm8k_test.jsonl and math500_test.json")
    parser.add_argument("--library", action="store_true", help="math-verify alone")
    parser.add_argument("--limit", type=int, help="first N problems of each file")
    options = parser.parse_args()
    for name in ("gsm8k_test.jsonl", "math500_test.json"):
        found = judge(read_problems(options.folder / name, options.limit), by=Checker() if options.library else equivalent)
        print(f"\n## {name}\n\n| says the same? | way | answers | judged right |\n|---|---|---|---|")
        for (right, way), rows in found.items():
            print(f"| {'yes' if right else 'no'} | {way} | {len(rows)} | {sum(row[2] for row in rows)} |")
        print("\nmisjudged:")
        for (right, way), rows in found.items():
            for reference, answer, judged in rows:
                if judged != right:
                    print(f"  {way}: {reference!r} against {answer[-80:]!r}")


if __name__ == "__main__":
    main()
