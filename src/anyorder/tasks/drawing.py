"""How the sequences of a task are drawn for a person: which position stands where, and what each token is written as.

A task may say so itself, by methods that the `Task` protocol does not ask for:

    drawing() -> Drawing
    token_text(token) -> str
    notes(tokens) -> list[str]                 what a person must know of the problem (L,) besides its grid, e.g. the clues
    dead_ends(instances, states) -> bool (N,)  where it is proven that no solution by the rules completes the state (N, L)
"""

from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from anyorder.tasks.base import Task
from anyorder.tasks.sequences import Sequences
from anyorder.tasks.vocabulary import YE_VOCABULARY


class Drawing(BaseModel):
    """Where positions stand.

    kind: "grid", or "sequence" for positions one after the other.
    rows, columns: of a grid, whose cell `row * columns + column` is position `cells[row * columns + column]`.
    box: side of the boxes of a grid, which get thicker lines; 0 for none.
    cells: the positions that are drawn, in reading order; None for all.
    row_names, column_names: of a grid; may be left out.
    symbols: how the tokens of a sequence are coloured: "amino acids", "smiles", "text", or "" for not at all.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["grid", "sequence"] = "sequence"
    rows: int = Field(0, ge=0)
    columns: int = Field(0, ge=0)
    box: int = Field(0, ge=0)
    cells: list[int] | None = None
    row_names: list[str] | None = None
    column_names: list[str] | None = None
    symbols: Literal["amino acids", "smiles", "text", ""] = ""

    @model_validator(mode="after")
    def _whole(self) -> "Drawing":
        if self.kind == "grid" and (self.cells is None or len(self.cells) != self.rows * self.columns or not self.cells):
            raise ValueError(f"a grid of {self.rows} x {self.columns} names the position of each of its cells")
        for names, count in ((self.row_names, self.rows), (self.column_names, self.columns)):
            if names is not None and len(names) != count:
                raise ValueError(f"{len(names)} names for {count} rows or columns")
        return self


_SYMBOLS: dict[str, Literal["amino acids", "smiles", "text"]] = {
    "protein": "amino acids",
    "antibody": "amino acids",
    "molecules": "smiles",
    "text": "text",
}


def drawing_of(task: Task) -> Drawing:
    """The task's own drawing; else a sequence of all positions."""
    if hasattr(task, "drawing"):
        drawing: Drawing = task.drawing()
        return drawing
    return Drawing(symbols=_SYMBOLS.get(task.name, "") if isinstance(task, Sequences) else "")


def token_writer(task: Task) -> Callable[[int], str]:
    """What a token is written as."""
    if hasattr(task, "token_text"):
        own: Callable[[int], str] = task.token_text
        return own
    if isinstance(task, Sequences):
        return _symbol_writer(task.symbols)
    return YE_VOCABULARY.__getitem__ if task.vocab_size == len(YE_VOCABULARY) else str


def _symbol_writer(alphabet: Any) -> Callable[[int], str]:
    """Of a fixed alphabet, its symbols; of a tokenizer, what the token is in a text, with its leading space."""
    if hasattr(alphabet, "tokens"):
        tokens: tuple[str, ...] = alphabet.tokens
        return tokens.__getitem__
    tokenizer = alphabet.tokenizer

    def write(token: int) -> str:
        piece = str(tokenizer.convert_ids_to_tokens(token))
        return piece if token in tokenizer.all_special_ids else piece.replace("Ġ", " ").replace("▁", " ")

    return write


def hidden_tokens(task: Task) -> list[int]:
    """Tokens that are not drawn where they are given: padding, and what frames a sequence."""
    return [task.pad_token_id, *task.symbols.start, *task.symbols.end] if isinstance(task, Sequences) else []


def notes_of(task: Task, tokens: Any) -> list[str]:
    """What a person must know of a problem (L,) besides its grid; nothing for most tasks."""
    notes: list[str] = task.notes(tokens) if hasattr(task, "notes") else []
    return notes
