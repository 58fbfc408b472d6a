"""How the sequences of a task are drawn: where each position stands."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Drawing(BaseModel):
    """Where positions stand.

    kind: "grid", or "sequence" for positions one after the other.
    rows, columns: of a grid, whose cell `row * columns + column` is position `cells[row * columns + column]`.
    box: side of the boxes of a grid, which get thicker lines; 0 for none.
    cells: the positions that are drawn, in reading order; None for all.
    row_names, column_names: of a grid; may be left out.
    symbols: how the tokens of a sequence are colored: "amino acids", "smiles", "text", or "" for not at all.
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
    def _complete(self) -> "Drawing":
        if self.kind == "grid" and (self.cells is None or len(self.cells) != self.rows * self.columns or not self.cells):
            raise ValueError(f"a grid of {self.rows} x {self.columns} names the position of each of its cells")
        for names, count in ((self.row_names, self.rows), (self.column_names, self.columns)):
            if names is not None and len(names) != count:
                raise ValueError(f"{len(names)} names for {count} rows or columns")
        return self
