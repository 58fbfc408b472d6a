"""3-SAT: random formulas, encodings, file formats, checker.

Layouts:
    infill: the 3m literals of the formula, then one position per variable. Token v (1..n) is the literal v, token n + v is
        "not v", 0 is the mask. L = 3m + n, V = 2n + 1. Position 3m + v - 1 answers v or not v.
    prefix: the paper's (Ye et al. 2024): the formula as text `1,4,5/1,9,e/...`, [SEP], the assignment `1,2,d`, [EOS]; for
        5, 7 or 9 variables. L = 6m + 2n.
"""

import io
import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from anyorder.errors import BadInput, shorten
from anyorder.files import open_text
from anyorder.registry import TASKS
from anyorder.relations import Relation, same
from anyorder.signatures import checked
from anyorder.tasks.base import CheckResult, Instances, Task
from anyorder.tasks.drawing import Drawing
from anyorder.tasks.generation import per_instance_seeds
from anyorder.tasks.instances import cell_accuracy, whole
from anyorder.tasks.problem_files import FIRST_LINES, Unreadable, collect, json_line
from anyorder.tasks.sat_files import Formula, read_formulas, size_of
from anyorder.tasks.vocabulary import EOS, MASK, SEP, YE_VOCABULARY

_ENUMERABLE = 20
_COUNTABLE = 12  # variables up to which the models of a file's formulas are counted
_ATTEMPTS = 1_000  # random formulas that are drawn at most for one that can be satisfied
_COMMA, _SLASH = YE_VOCABULARY.index(","), YE_VOCABULARY.index("/")


def ye_clauses(variables: int) -> int:
    """m = floor(4.258 n + 58.26 n^(-2/3)), near the threshold of satisfiability: 41, 45, 51 for n = 5, 7, 9."""
    return int(4.258 * variables + 58.26 * variables ** (-2 / 3))


@TASKS.register("sat")
class Sat(Task):
    """Satisfiable random 3-SAT formulas.

    Args:
        variables: n, at least 3.
        clauses: m; Ye's number for n when not given.
        layout: "infill" or "prefix" (see the module).
    """

    file_suffix: ClassVar[str] = ".jsonl"

    @checked("variables", "clauses")
    def __init__(self, variables: int = 9, clauses: int | None = None, layout: str = "infill") -> None:
        if variables < 3:
            raise BadInput(f"3-SAT needs at least 3 variables, not {variables}")
        if layout not in ("infill", "prefix"):
            raise BadInput(f"layout {layout!r} is unknown: use 'infill' or 'prefix'")
        if layout == "prefix" and variables not in (5, 7, 9):
            raise BadInput("the prefix layout is Ye's and spells 5, 7 or 9 variables")
        self.variables = variables
        self.clauses = ye_clauses(variables) if clauses is None else clauses
        most = 7 * math.comb(variables, 3)
        if not 1 <= self.clauses <= most:
            raise BadInput(
                f"a formula of {variables} variables has 1 to {most} clauses if it can be satisfied, not {self.clauses}: "
                "give clauses"
            )
        self.layout = layout
        infill = layout == "infill"
        self.literals = 3 * self.clauses
        self.vocab_size = 2 * variables + 1 if infill else len(YE_VOCABULARY)
        self.mask_token_id = 0 if infill else MASK
        self._formula_length = self.literals if infill else 2 * self.literals  # a separator follows every literal
        self.length = self.literals + variables if infill else 2 * self.literals + 2 * variables

    @staticmethod
    def options_of(first_lines: Callable[[], str] | None, text: str | None) -> dict[str, Any]:
        """Variables and clauses that a file (read line by line) or a formula typed as text has; {} if unclear."""
        if first_lines is None:
            return _size_of_text(text)
        lines = list(islice(iter(first_lines, ""), FIRST_LINES))
        size = size_of(lines)
        if size:
            return {"variables": size[0], "clauses": size[1]}
        try:
            _, read = next(read_formulas(io.StringIO("".join(lines), newline="")))
            source, assignment, variables = read()
            clauses = source.count("/") + 1 if isinstance(source, str) else len(source)
            variables = len(assignment.split(",")) if isinstance(assignment, str) else variables
        except (StopIteration, ValueError, TypeError):  # the text ends within a list, or is no formula
            return {}
        return {"variables": variables, "clauses": clauses} if variables else _size_of_text(source)

    # ---- encoding -------------------------------------------------------------------------------------------------

    @property
    def _names(self) -> list[int]:
        """Token of each literal: index v - 1 for v, n + v - 1 for not v."""
        n = self.variables
        if self.layout == "infill":
            return list(range(1, 2 * n + 1))
        names = "1234567890" if n == 5 else "123456789"[:n] + "bcdefghij"[:n]
        return [YE_VOCABULARY.index(name) for name in names]

    def _token_of(self, literals: Tensor) -> Tensor:
        """Tokens of signed DIMACS literals, any shape."""
        index = literals.abs() - 1 + (literals < 0) * self.variables
        return torch.tensor(self._names)[index]

    def _literal_of(self, tokens: Tensor) -> Tensor:
        """Signed literals of tokens, 0 for a token that is no literal."""
        table = torch.zeros(self.vocab_size, dtype=torch.int64)
        n = self.variables
        signed = torch.cat([torch.arange(1, n + 1), -torch.arange(1, n + 1)])
        table[torch.tensor(self._names)] = signed
        return table[tokens]

    @property
    def _literal_places(self) -> Tensor:
        """Positions of the formula's literals (3m,)."""
        return torch.arange(self.literals) * (1 if self.layout == "infill" else 2)

    @property
    def _answer_places(self) -> Tensor:
        """Positions of the assignment (n,)."""
        return self._formula_length + torch.arange(self.variables) * (1 if self.layout == "infill" else 2)

    def relations(self) -> Mapping[str, Relation]:
        """clause: literals of one clause. variable: literals of one variable, and its place in the assignment. value: a
        literal and the place of its variable in the assignment, but not two literals. true: the same, once the place
        holds that very literal."""
        clause = -torch.arange(1, self.length + 1)
        clause[self._literal_places] = torch.arange(self.literals) // 3
        own = torch.full((self.length,), -1)
        own[self._answer_places] = torch.arange(self.variables)
        of_token = torch.full((self.vocab_size,), -1)
        of_token[torch.tensor(self._names)] = torch.arange(2 * self.variables) % self.variables
        always = torch.ones(self.length, self.length, dtype=torch.bool)
        nowhere = torch.full((self.length,), -1)
        literal = torch.full((self.vocab_size,), -1)
        literal[torch.tensor(self._names)] = torch.arange(2 * self.variables)
        across = (own >= 0)[:, None] != (own >= 0)[None, :]
        return {
            "clause": same(clause),
            "variable": Relation(always, own, of_token),
            "value": Relation(across, own, of_token),
            "true": Relation(across, nowhere, literal),
        }

    def encode(self, formulas: np.ndarray, assignments: np.ndarray | None, labels: dict[str, Any] | None = None) -> Instances:
        """Instances from signed literals (N, m, 3) and truth values bool (N, n)."""
        count = formulas.shape[0]
        tokens = torch.full((count, self.length), self.mask_token_id)
        if self.layout == "prefix":
            separators = torch.where(torch.arange(self.literals) % 3 == 2, _SLASH, _COMMA)
            separators[-1] = SEP
            tokens[:, self._literal_places + 1] = separators
        tokens[:, self._literal_places] = self._token_of(torch.from_numpy(formulas.reshape(count, -1).astype(np.int64)))
        maskable = (torch.arange(self.length) >= self._formula_length).expand(count, -1)
        x0 = None
        if assignments is not None:
            x0 = tokens.clone()
            signs = torch.from_numpy(np.where(assignments, 1, -1).astype(np.int64))
            x0[:, self._answer_places] = self._token_of(signs * torch.arange(1, self.variables + 1))
            if self.layout == "prefix":
                x0[:, self._answer_places + 1] = _COMMA
                x0[:, -1] = EOS
        return Instances(tokens, maskable.clone(), x0, labels or {})

    # ---- generation -----------------------------------------------------------------------------------------------

    def generate(self, count: int, seed: int) -> Instances:
        """Ye's distribution: m distinct clauses of 3 distinct variables with random signs, kept if satisfiable.

        The stored assignment is drawn uniformly from all models (up to 20 variables; beyond, python-sat gives one). The
        label `models` is their number.
        """
        from anyorder.tasks.sat_rules import generate_many

        seeds = per_instance_seeds(seed, count)
        if self.variables <= _ENUMERABLE:
            formulas, assignments, models = generate_many(self.variables, self.clauses, seeds, _ATTEMPTS)
            if not models.all():
                raise _hardly_satisfiable(self.variables, self.clauses)
            return self.encode(formulas, assignments, {"models": models})
        formulas, assignments = _generate_with_solver(self.variables, self.clauses, seeds)
        return self.encode(formulas, assignments)

    def augment(self, x0: Tensor, tokens: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Rename variables, flip signs, and permute clauses, per row."""
        batch, n = x0.shape[0], self.variables
        rename = torch.from_numpy(rng.random((batch, n)).argsort(axis=1)) + 1
        flip = torch.from_numpy(np.where(rng.random((batch, n)) < 0.5, 1, -1))
        order = torch.from_numpy(rng.random((batch, self.clauses)).argsort(axis=1))
        literals = self._literal_of(tokens[:, self._literal_places])
        index = literals.abs() - 1
        moved = rename.gather(1, index) * flip.gather(1, index) * literals.sign()
        clauses = moved.view(batch, -1, 3).gather(1, order[:, :, None].expand(-1, -1, 3))
        clauses = clauses.gather(2, clauses.abs().argsort(dim=2))
        values = self._literal_of(x0[:, self._answer_places]).sign() * flip
        assignment = torch.empty_like(values).scatter_(1, rename - 1, values)
        out = self.encode(clauses.numpy(), (assignment > 0).numpy())
        assert out.x0 is not None
        return out.x0, out.tokens

    # ---- reading and writing --------------------------------------------------------------------------------------

    def load(self, path: str | Path, limit: int | None = None, unreadable: Unreadable | None = None) -> Instances:
        """DIMACS CNF, and formulas as text or as lists of clauses with or without assignments, in all layouts of `sat_files`.

        Raises:
            BadInput: no such file, another layout, or a formula that cannot be read or satisfied; the error says which.
        """
        with open_text(path, newline="") as file:
            rows = ((place, partial(self._row, read)) for place, read in read_formulas(file))
            found = collect(path, rows, limit, "formulas", unreadable)
        labels = {} if found[0][2] is None else {"models": np.array([models for _, _, models in found])}
        known = [assignment for _, assignment, _ in found if assignment is not None]
        formulas = np.stack([formula for formula, _, _ in found])
        return self.encode(formulas, np.stack(known) if len(known) == len(found) else None, labels)

    def parse(self, text: str) -> Instances:
        """One formula as `1,-4,5/2,3,-5/...`, or in Ye's letters for n = 5, 7, 9. It must have a model."""
        return self.encode(self._row(lambda: Formula(text.strip()))[0][None], None)

    def problem_text(self, tokens: Tensor) -> str:
        """The formula of a problem (L,) as `1,-4,5/2,3,-5/...`."""
        literals = self._literal_of(tokens[self._literal_places]).view(-1, 3).tolist()
        return "/".join(",".join(map(str, clause)) for clause in literals)

    def file_line(self, tokens: Tensor, solution: Tensor | None) -> str:
        """Formula and assignment as JSON, in the columns of Ye et al."""
        return json_line(input=self.problem_text(tokens), output=None if solution is None else self.format(solution))

    def _row(self, read: Callable[[], Formula]) -> tuple[np.ndarray, np.ndarray | None, int | None]:
        """Clauses, the assignment if there is one, and the number of models if it can be counted."""
        from anyorder.tasks.sat_rules import count_models

        source, text, variables = read()
        if variables is not None and variables > self.variables:
            raise BadInput(
                f"this formula has {variables} variables; the task is set up for {self.variables} (task option variables)"
            )
        formula = self._formula(source)
        models = count_models(formula, self.variables) if self.variables <= _COUNTABLE else None
        if models == 0:
            raise BadInput("this formula has no model: no assignment satisfies all of its clauses")
        return formula, None if text is None else self._assignment(text, formula), models

    def _formula(self, source: Any) -> np.ndarray:
        clauses = [clause.split(",") for clause in source.split("/")] if isinstance(source, str) else source
        if not isinstance(clauses, list) or not all(isinstance(clause, list) for clause in clauses):
            raise BadInput("a formula is a text such as 1,-2,3/2,3,-4 or a list of clauses")
        if len(clauses) != self.clauses:
            raise BadInput(f"this formula has {len(clauses)} clauses; the task is set up for {self.clauses}")
        out = np.zeros((self.clauses, 3), dtype=np.int64)
        for number, clause in enumerate(clauses, start=1):
            if len(clause) != 3:
                raise BadInput(f"clause {number} has {len(clause)} literals, not 3")
            out[number - 1] = [self._literal(literal, number) for literal in clause]
            if len({abs(literal) for literal in out[number - 1]}) < 3:
                raise BadInput(f"clause {number} names a variable twice")
        return out

    def _literal(self, literal: Any, clause: int) -> int:
        n = self.variables
        value: int | None = None
        if isinstance(literal, int) and not isinstance(literal, bool):
            value = literal
        elif isinstance(literal, str):
            letters = "67890" if n == 5 else "bcdefghij"[:n]
            text = literal.strip()
            if n in (5, 7, 9) and len(text) == 1 and text in letters:
                value = -(letters.index(text) + 1)
            elif re.fullmatch(r"[-+]?\d{1,9}", text, re.ASCII):
                value = int(text)
        if value is None or not 1 <= abs(value) <= n:
            raise BadInput(f"clause {clause} has the literal {shorten(repr(literal))}; variables run from 1 to {n}")
        return value

    def _assignment(self, text: Any, formula: np.ndarray) -> np.ndarray:
        if not isinstance(text, str):
            raise BadInput(f"the assignment {shorten(repr(text))} is not a text such as 1,-2,3")
        literals = [self._literal(literal, 0) for literal in text.split(",")]
        if [abs(literal) for literal in literals] != list(range(1, self.variables + 1)):
            raise BadInput(f"the assignment {shorten(text)!r} does not name variables 1 to {self.variables} in order")
        if not (np.array(literals)[abs(formula) - 1] == formula).any(axis=1).all():
            raise BadInput(f"the assignment {shorten(text)!r} does not satisfy the formula")
        return np.array(literals) > 0

    def format(self, tokens: Tensor) -> str:
        """The assignment as `1,-2,3,...`, '?' where a position holds no literal of its variable."""
        literals = self._literal_of(tokens[self._answer_places]).tolist()
        return ",".join(str(v) if abs(v) == i else "?" for i, v in enumerate(literals, start=1))

    def drawing(self) -> Drawing:
        """The assignment alone; the formula is in the notes."""
        return Drawing(cells=self._answer_places.tolist())

    def token_text(self, token: int) -> str:
        """A literal such as 3 or -3, '.' for the mask, '?' for what is no literal."""
        literal = int(self._literal_of(torch.tensor(token)))
        return "." if token == self.mask_token_id else str(literal or "?")

    def notes(self, tokens: Tensor) -> list[str]:
        """The clauses of a formula (L,)."""
        literals = [self.token_text(int(token)) for token in tokens[self._literal_places]]
        return [" or ".join(literals[at : at + 3]) for at in range(0, self.literals, 3)]

    # ---- checking -------------------------------------------------------------------------------------------------

    def dead_ends(self, instances: Instances, states: Tensor) -> Tensor:
        """Whether it is proven that no model of the formula completes a partial assignment (N, L), bool (N,). Nothing is proven
        of formulas of more than 12 variables."""
        from anyorder.tasks.sat_rules import count_models

        dead = torch.zeros(len(states), dtype=torch.bool)
        if self.variables > _COUNTABLE:
            return dead
        formulas = self._literal_of(instances.tokens[:, self._literal_places]).view(len(states), -1, 3)
        answers = states[:, self._answer_places]
        values = self._literal_of(answers)
        own = (values.abs() == torch.arange(1, self.variables + 1)) | (answers == self.mask_token_id)
        for number, (formula, value) in enumerate(zip(formulas, values, strict=True)):
            fixed = value[value != 0][:, None].expand(-1, 3)
            dead[number] = count_models(torch.cat([formula, fixed]).numpy(), self.variables) == 0
        return dead | ~own.all(dim=1)

    def nearest_solutions(self, instances: Instances, tokens: Tensor, certain: Tensor) -> Tensor:
        """See `Task`. All models of formulas of up to 12 variables are considered."""
        from anyorder.tasks.sat_rules import nearest_models

        if self.variables > _COUNTABLE:
            return super().nearest_solutions(instances, tokens, certain)
        assert instances.x0 is not None
        places, first = self._answer_places, self.length + 1
        values = self._literal_of(tokens[:, places])
        weights = torch.where(certain[:, places], first, 1) * (values != 0)
        models = (self._literal_of(instances.x0[:, places]) > 0).numpy()
        formulas = self._literal_of(instances.tokens[:, self._literal_places]).view(len(tokens), -1, 3)
        nearest_models(formulas.numpy(), (values > 0).numpy(), weights.numpy(), models)
        out = instances.x0.clone()
        out[:, places] = self._token_of(torch.from_numpy(np.where(models, 1, -1)) * torch.arange(1, self.variables + 1))
        return out

    def check(self, instances: Instances, tokens: Tensor) -> CheckResult:
        """By the rules: the formula is unchanged, every variable has a value, every clause a true literal.

        Cell accuracy is the share of variables equal to the stored assignment where one is known, though formulas may
        have other models; otherwise the share of variables that have a value at all.
        """
        places = self._answer_places
        values = self._literal_of(tokens[:, places])
        own = torch.arange(1, self.variables + 1)
        legal = values.abs() == own
        formula = self._literal_of(instances.tokens[:, self._literal_places])
        true = values.gather(1, formula.abs() - 1) == formula
        satisfied = true.view(len(instances), -1, 3).any(dim=2).all(dim=1)
        kept = whole(instances, tokens, self.mask_token_id)
        right = legal if instances.x0 is None else tokens[:, places] == instances.x0[:, places]
        return CheckResult(satisfied & legal.all(dim=1) & kept, cell_accuracy(Instances(values, torch.ones_like(right)), right))


def _generate_with_solver(variables: int, clauses: int, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    try:
        from pysat.solvers import Glucose4
    except ImportError as error:
        raise BadInput(f"formulas of more than {_ENUMERABLE} variables need: pip install 'anyorder[sat]'") from error
    from anyorder.tasks.sat_rules import random_formula

    formulas, assignments = [], []
    for seed in seeds:
        for attempt in range(_ATTEMPTS):
            again = int(per_instance_seeds(int(seed), 1, attempt)[0]) if attempt else int(seed)
            formula = random_formula(variables, clauses, again)
            with Glucose4(bootstrap_with=formula.tolist()) as solver:
                if solver.solve():
                    formulas.append(formula)
                    assignments.append(np.array(solver.get_model()[:variables]) > 0)
                    break
        else:
            raise _hardly_satisfiable(variables, clauses)
    return np.stack(formulas), np.stack(assignments)


def _hardly_satisfiable(variables: int, clauses: int) -> BadInput:
    return BadInput(f"hardly any formula of {clauses} clauses over {variables} variables can be satisfied: give fewer clauses")


def _size_of_text(formula: Any) -> dict[str, Any]:
    """The number of variables that Ye's formulas of so many clauses have; {} if it is none of theirs."""
    count = formula.count("/") + 1 if isinstance(formula, str) else len(formula or [])
    return next(({"variables": n} for n in (5, 7, 9) if ye_clauses(n) == count), {})
