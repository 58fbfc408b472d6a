"""3-SAT: random formulas, encodings, file formats, checker.

Layouts:
    infill: the 3m literals of the formula, then one position per variable. Token v (1..n) is the literal v, token n + v is
        "not v", 0 is the mask. L = 3m + n, V = 2n + 1. Position 3m + v - 1 answers v or not v.
    prefix: the paper's (Ye et al. 2024): the formula as text `1,4,5/1,9,e/...`, [SEP], the assignment `1,2,d`, [EOS]; for
        5, 7 or 9 variables. L = 6m + 2n.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anyorder.errors import BadInput
from anyorder.files import parse_json
from anyorder.registry import TASKS
from anyorder.relations import Relation, same
from anyorder.tasks.base import CheckResult, Instances, Task, per_instance_seeds, read_lines
from anyorder.tasks.drawing import Drawing
from anyorder.tasks.instances import cell_accuracy
from anyorder.tasks.vocabulary import EOS, MASK, SEP, YE_VOCABULARY

_ENUMERABLE = 20
_COUNTABLE = 12  # variables up to which the models of a file's formulas are counted
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

    def __init__(self, variables: int = 9, clauses: int | None = None, layout: str = "infill") -> None:
        if variables < 3:
            raise BadInput(f"3-SAT needs at least 3 variables, not {variables}")
        if layout not in ("infill", "prefix"):
            raise BadInput(f"layout {layout!r} is unknown: use 'infill' or 'prefix'")
        if layout == "prefix" and variables not in (5, 7, 9):
            raise BadInput("the prefix layout is Ye's and spells 5, 7 or 9 variables")
        self.variables = variables
        self.clauses = ye_clauses(variables) if clauses is None else clauses
        if self.clauses < 1:
            raise BadInput(f"a formula needs at least one clause, not {self.clauses}")
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
        formula: Any = text
        if first_lines is not None:
            try:
                row = parse_json(first_lines())
                formula = row["input"] if "input" in row else row["clauses"]
                if "output" in row:
                    return {"variables": len(row["output"].split(",")), "clauses": formula.count("/") + 1}
                if "n" in row:
                    return {"variables": row["n"], "clauses": len(formula)}
            except (ValueError, KeyError, TypeError, AttributeError):
                return {}
        count = formula.count("/") + 1 if isinstance(formula, str) else len(formula or [])
        return next(({"variables": n} for n in (5, 7, 9) if ye_clauses(n) == count), {})

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
            formulas, assignments, models = generate_many(self.variables, self.clauses, seeds)
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

    def load(self, path: str | Path, limit: int | None = None) -> Instances:
        """JSON lines: Ye's {"input": "1,4,5/...", "output": "1,2,d,..."}, or {"n", "clauses": [[1, -2, 3], ...]}."""
        answers: list[np.ndarray] = []

        def formula_of(line: str) -> np.ndarray:
            row = parse_json(line)
            if not isinstance(row, dict) or not ("input" in row or "clauses" in row):
                raise BadInput('expected an object with "input", or with "clauses"')
            formula = self._formula(row["input"] if "input" in row else row["clauses"])
            if "output" in row:
                answers.append(self._assignment(row["output"]))
            return formula

        formulas = read_lines(path, limit, formula_of, "formulas")
        from anyorder.tasks.sat_rules import count_models

        known = np.stack(answers) if len(answers) == len(formulas) else None
        countable = self.variables <= _COUNTABLE
        labels = {"models": np.array([count_models(f, self.variables) for f in formulas])} if countable else {}
        return self.encode(np.stack(formulas), known, labels)

    def parse(self, text: str) -> Instances:
        """One formula as `1,-4,5/2,3,-5/...`, or in Ye's letters for n = 5, 7, 9."""
        return self.encode(self._formula(text.strip())[None], None)

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
            elif text.lstrip("+-").isascii() and text.lstrip("+-").isdigit():
                value = int(text)
        if value is None or not 1 <= abs(value) <= n:
            raise BadInput(f"clause {clause} has the literal {literal!r}; variables run from 1 to {n}")
        return value

    def _assignment(self, text: Any) -> np.ndarray:
        if not isinstance(text, str):
            raise BadInput(f"the assignment {text!r} is not a text such as 1,-2,3")
        literals = [self._literal(literal, 0) for literal in text.split(",")]
        if [abs(literal) for literal in literals] != list(range(1, self.variables + 1)):
            raise BadInput(f"the assignment {text!r} does not name variables 1 to {self.variables} in order")
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
        kept = ((instances.tokens == tokens) | instances.maskable).all(dim=1)
        right = legal if instances.x0 is None else tokens[:, places] == instances.x0[:, places]
        everything = Instances(values, torch.ones_like(right))
        return CheckResult(satisfied & legal.all(dim=1) & kept, cell_accuracy(everything, right))


def _generate_with_solver(variables: int, clauses: int, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    try:
        from pysat.solvers import Glucose4
    except ImportError as error:
        raise BadInput(f"formulas of more than {_ENUMERABLE} variables need: pip install 'anyorder[sat]'") from error
    from anyorder.tasks.sat_rules import random_formula

    formulas, assignments = [], []
    for seed in seeds:
        attempt = 0
        while True:
            formula = random_formula(variables, clauses, int(seed) + attempt * 2**31)
            with Glucose4(bootstrap_with=formula.tolist()) as solver:
                if solver.solve():
                    formulas.append(formula)
                    assignments.append(np.array(solver.get_model()[:variables]) > 0)
                    break
            attempt += 1
    return np.stack(formulas), np.stack(assignments)
