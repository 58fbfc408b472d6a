"""Answers the parts of a batch, in this process or as an actor of Ray."""

import os
from typing import Any

import torch

from anyorder.batch.plan import Plan, pyarrow
from anyorder.errors import AnyorderError, BadInput
from anyorder.files import write_atomically


class Worker:
    """A denoiser with a sampler, which answers parts of a batch.

    Args:
        plan: of the batch.

    Raises:
        BadInput: a model or a sampler that cannot be used.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        opened = plan.open()
        self.model, self.seed = opened.model, opened.seed
        self.new = self.model.usual_length if opened.max_new_tokens is None else opened.max_new_tokens

    def answer(self, part: int) -> None:
        """Write the file of a part, as a whole. One that is there is left as it is: the answers would be the same."""
        path = self.plan.path(part)
        if path.is_file():
            return
        first, prompts = self.plan.prompts(part)
        rows = [self._row(first + number, prompt) for number, prompt in enumerate(prompts)]
        asked = [row for row in rows if row["error"] is None]
        tokens = [row.pop("tokens") for row in asked]
        seeds = torch.tensor([self.seed + row["row"] for row in asked], dtype=torch.int64)
        answers = self.model.generate(tokens, self.new, seeds=seeds, batch_size=self.plan.batch_size)
        for row, answer in zip(asked, answers, strict=True):
            row.update(answer=answer.text, tokens=len(answer.tokens), nfe=answer.nfe)
        table = pyarrow().Table.from_pylist(rows, schema=_schema())
        write_atomically(path, lambda temporary: pyarrow().parquet.write_table(table, temporary, compression="zstd"))

    def _row(self, number: int, prompt: str | None) -> dict[str, Any]:
        """A row of the answers, with the tokens of its prompt, or with what is wrong with it."""
        row: dict[str, Any] = {"row": number, "prompt": prompt, "answer": None, "tokens": None, "nfe": None, "error": None}
        try:
            tokens = self.model.prompt(prompt or "")
            room = self.model.room
            if room is not None and len(tokens) + self.new > room:
                raise BadInput(f"the prompt has {len(tokens)} tokens and the answer {self.new}; the model takes {room}")
            self.model.check_steps(tokens, self.new)
            return {**row, "tokens": tokens}
        except BadInput as error:
            return {**row, "error": str(error)}


class Actor:
    """A worker as Ray Data's `map_batches` wants it. Errors are results, since Ray would start the actor again and again.

    Args:
        plan: of the batch.
    """

    def __init__(self, plan: Plan) -> None:
        self.error, self.worker = "", None
        try:
            self.worker = Worker(plan)
        except AnyorderError as error:
            self.error = str(error)

    def __call__(self, parts: dict[str, Any]) -> dict[str, Any]:
        """Answer parts, {"part": numbers}. Returns their numbers, this process, and what went wrong."""
        numbers, errors = [int(part) for part in parts["part"]], []
        for part in numbers:
            try:
                if self.worker is not None:
                    self.worker.answer(part)
                errors.append(self.error)
            except AnyorderError as error:
                errors.append(str(error))
        return {"part": numbers, "process": [os.getpid()] * len(numbers), "error": errors}


def _schema() -> Any:
    """The columns of the answers."""
    arrow = pyarrow()
    text, number = arrow.string(), arrow.int64()
    columns = {"row": number, "prompt": text, "answer": text, "tokens": number, "nfe": number, "error": text}
    return arrow.schema(list(columns.items()))
