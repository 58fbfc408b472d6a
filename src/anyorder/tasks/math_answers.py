"""The final answer in a text, and whether it is equivalent to a reference.

Numbers are compared here, exactly; everything else by math-verify (Apache-2.0), see `math_checker`.
"""

import json
import re
import subprocess
import sys
import threading
from fractions import Fraction
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from anyorder.errors import BadInput

_SECONDS = 5.0
_LONGEST = 300
_BRACE = re.compile(r"(?P<box>\\(?:boxed|fbox)\s*\{)|\\.|[{}]", re.DOTALL)
_TAG = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL)
_HASHES = re.compile(r"####[ \t]*(\S[^\n]*)")
_SENTENCE = re.compile(r"\banswer is:?\s+(.+?)(?:(?:\.\s*|(?<!\s)\s+|)I hope|\.(?=\s|\Z)|\n|\Z)", re.IGNORECASE)
_MIXED = re.compile(r"(?<![\w./^])(?<!\d,)(\d{1,3}(?:,\d{3})+|\d+)(?:\\[,; ]|[ \t\xa0])+(\d+)/(\d+)(?![\d/])")
_NUMBER = re.compile(rf"[-−]?\\?\$?(?:{_MIXED.pattern}|(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+)?)(?:\s?\\?%)?")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_NUMERAL = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+|(?=\.\d))(?:\.\d*)?")
_UNITS = re.compile(r"(.*\d)\s+([A-Za-z]{2,}(?:\s+[A-Za-z]{2,})*)")
_NO_UNITS = re.compile(
    r"\b(dozen|hundred|thousand|[mbtr]+illion|percent|half|halves|thirds?|quarters?|fifths?|tenths?|pi|theta|sin|cos|tan|cot|sec|csc|"
    r"log|ln|exp|sqrt|over|times|plus|minus|or|and|to)\b",
    re.IGNORECASE,
)
_BASE = re.compile(r"_\{?(\d+)\}?\Z")


class Answer(NamedTuple):
    """What a text gives as its answer. marked: by a box, a tag or words that say so; else it is merely the last number."""

    text: str
    marked: bool


def final_answer(text: str) -> Answer | None:
    r"""The answer that a text ends in, None if it gives none. The first of these rules that finds something:

    1. the last complete `\boxed{...}`, its braces balanced (or `\fbox`);
    2. the last `<answer>...</answer>`, which may lack its end;
    3. the rest of the line after the last `####` (GSM8K);
    4. what follows the last "answer is", up to the end of the sentence;
    5. the last number, with its fraction or percent sign; `2 1/2` is one number.

    Where rules 2 to 4 find a sentence (three words or more), its last number is the answer.
    """
    box = last_box(text)
    if box:
        return Answer(_bare(box), True)
    for rule in (_TAG, _HASHES, _SENTENCE):
        found = [part for part in rule.findall(text) if part.strip()]
        if found:
            part = found[-1]
            last = _last_number(part) if len(_WORD.findall(part)) > 2 else None
            return Answer(_bare(part) if last is None else last, True)
    last = _last_number(text)
    return None if last is None else Answer(last, False)


def last_box(text: str) -> str:
    r"""What the last complete `\boxed{...}` that is not empty holds; "" if there is none."""
    last, found = -1, ""
    open_braces: list[int] = []  # where what a box holds begins; -1 for other braces
    for match in _BRACE.finditer(text):
        if match[0] == "}":
            start = open_braces.pop() if open_braces else -1
            if start > last and _bare(text[start : match.start()]):  # the box of a template holds dots only
                last, found = start, text[start : match.start()].strip()
        elif match[0] == "{" or match["box"]:
            open_braces.append(match.end() if match["box"] else -1)
    return found


def _last_number(text: str) -> str | None:
    found = [match[0] for match in _NUMBER.finditer(text)]
    if not found:
        return None
    mixed = _MIXED.search(found[-1])
    return _bare(found[-1].split()[-1] if mixed and not _is_proper(mixed) else found[-1])


def _is_proper(mixed: re.Match[str]) -> bool:
    """Whether the fraction of a mixed number is less than 1, as in `2 1/2`."""
    return all(len(part) <= _LONGEST for part in mixed.groups()) and int(mixed[2]) < int(mixed[3])


def _improper(mixed: re.Match[str]) -> str:
    r"""A mixed number as one fraction: `\frac{5}{2}`."""
    if not _is_proper(mixed):
        return mixed[0]
    whole, over, under = (int(part.replace(",", "")) for part in mixed.groups())
    return rf"\frac{{{whole * under + over}}}{{{under}}}"


def _bare(text: str) -> str:
    """Without what stands around an answer: emphasis, dollars of formulas, a full stop, the unit of a plain number."""
    text = text.replace("−", "-").strip().strip("*").strip()
    for opening, closing in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening + closing):
            text = text[len(opening) : -len(closing)].strip()
    text = _without_stop(text).strip("*").strip()
    units = _UNITS.fullmatch(text)
    if units and not _NO_UNITS.search(units[2]) and (_numerals(units[1]) or _MIXED.fullmatch(units[1])):
        return units[1]
    return text


def _without_stop(text: str) -> str:
    r"""Without the full stops and commas at its end, but for the first one after `\left` or `\right`."""
    bare = text.rstrip(".,;")
    return text[: len(bare) + 1] if bare.endswith((r"\left", r"\right")) else bare


def is_number(text: str) -> bool:
    """Whether a text is a number and nothing else, perhaps with a sign, a currency, a fraction or a percent sign."""
    return _NUMBER.fullmatch(_bare(text)) is not None


def _plain(text: str) -> str:
    r"""Without currency signs, with one space for every space of LaTeX, and none where `\!` takes it back."""
    text = re.sub(r"\\?\$|\\!(?:\\[,; ]|\s)*", "", text.replace("{,}", ","))
    return re.sub(r"\A([-+]) ", r"\1", re.sub(r"(?:\\[,; ]|\s)+", " ", text).strip())


def _numeral(text: str) -> Fraction | None:
    """The value of a plain decimal number, with or without a currency sign and separators of thousands: `12,000`, `12 000`."""
    plain = _plain(text)
    if len(plain) > _LONGEST or not _NUMERAL.fullmatch(plain):
        return None
    return Fraction(re.sub("[, ]", "", plain))


def _numerals(text: str) -> list[Fraction]:
    """The values of one plain number, or of several with spaces between them; nothing for another text."""
    whole = _numeral(text)
    if whole is not None:
        return [whole]
    words = _plain(text).split(" ")
    differs = (at > 0 and word[0] in "+-" for at, word in enumerate(words))  # `5 -3` is a difference
    values = [_numeral(word) for word, minus in zip(words, differs, strict=True) if not minus]
    found = [value for value in values if value is not None]
    return found if len(found) == len(words) else []


@lru_cache(maxsize=2**16)
def equivalent(reference: str, answer: str) -> bool:
    r"""Does an answer say the same as a reference? Both as they stand in a box: `\frac{3}{4}`, `1,000`, `x \in [-2,7]`.

    Equal text and equal numbers are equivalent, different plain numbers are not, and for everything else math-verify is
    asked, for 5 seconds of processor time at most. Numbers side by side are several, unless spaces separate thousands, and
    `2 1/2` is one. An answer that math-verify cannot read, for which it takes longer, or that is longer than 300 characters is
    not equivalent; no error is raised. It may be called from any thread.
    """
    reference, answer = _bare(reference), _bare(answer)
    if not answer or len(answer) > _LONGEST:
        return False
    if answer == reference:
        return True
    numbers = _numerals(reference), _numerals(answer)
    if all(numbers) or any(len(values) > 1 for values in numbers):  # math-verify adds numbers that stand side by side
        return numbers[0] == numbers[1]
    reference, answer = (_MIXED.sub(_improper, text) for text in (reference, answer))
    bases = _BASE.search(reference), _BASE.search(answer)
    if bases[0] and bases[1] and bases[0][1] != bases[1][1]:  # math-verify drops the base of a numeral
        return False
    return _ask(reference, answer)


class Checker:
    """The process that compares answers, started at the first question and again after an answer that ended it.

    Args:
        seconds: processor time that it may take for one answer.
    """

    def __init__(self, seconds: float = _SECONDS) -> None:
        self.seconds = seconds
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def __call__(self, reference: str, answer: str) -> bool:
        """Whether an answer is equivalent to a reference; False if the comparison takes too long or crashes."""
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(json.dumps([reference, answer]) + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except OSError:
                line = ""
            except BaseException:  # ctrl-C: its late answer would be taken for the next one
                process.kill()
                raise
            if not line:
                process.wait()
            return line.strip() == "true"

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            program = Path(__file__).with_name("math_checker.py")
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(program), str(self.seconds)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, encoding="utf-8",
            )  # fmt: skip
            assert self._process.stdout is not None
            if self._process.stdout.readline().strip() != "ready":
                raise BadInput(f"the checker of answers does not start: see `{sys.executable} -c 'import math_verify'`")
        return self._process


_ask = Checker()


def require_library() -> None:
    """Raises BadInput where math-verify is not installed."""
    if find_spec("math_verify") is None:
        raise BadInput("answers are checked by math-verify: pip install 'anyorder[math]'")
