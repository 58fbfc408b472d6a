"""What is decoded so far, in a terminal: tokens appear where they are committed."""

import itertools
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

NEW, MASKED = "bold green", "dim"
"""Styles of tokens that were committed in this step, and of those that are masked."""


class Draft:
    """A callback of `decode` for one answer, which replaces the draft of the step before; used in a `with` statement.

    Args:
        form: how the answer is written in tokens.
        console: where it is shown.
        shown: whether it is shown at all.
    """

    def __init__(self, form: Any, console: Console, shown: bool) -> None:
        self.form, self.shown = form, shown
        self.live = Live(console=console, transient=True, auto_refresh=False, vertical_overflow="visible")

    def __enter__(self) -> "Draft":
        if self.shown:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def __call__(self, output: Any) -> None:
        """Show the state after a step."""
        if self.shown:
            self.live.update(self.text_of(output), refresh=True)

    def text_of(self, output: Any) -> Text:
        """The generated tokens up to the first end with everything before it committed, `_` where masked."""
        state = output.after
        where = state.generated[0]
        tokens, masked, new = (values[0][where].tolist() for values in (state.tokens, state.masked, output.selected))
        stop = next((n for n, token in enumerate(tokens) if token in self.form.ends and not any(masked[:n])), len(tokens))
        text = Text()
        for (style, _), run in itertools.groupby(range(stop), key=lambda n: (_style(masked[n], new[n]), masked[n])):
            text.append(self.form.symbols.decode([tokens[n] for n in run]), style)
        return text


def _style(masked: bool, new: bool) -> str:
    return MASKED if masked else NEW if new else ""
