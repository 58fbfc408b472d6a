"""The command that runs lm-evaluation-harness: lm-eval."""

import json
import sys
from importlib.util import find_spec
from typing import Annotated, Any
from unittest.mock import patch

import typer

from anyorder.cli.app import command
from anyorder.cli.language import open_language
from anyorder.cli.options import LARGEST, BatchSizeOption, with_options_of
from anyorder.errors import BadInput, first_line


@command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
@with_options_of(open_language)
def lm_eval(
    context: typer.Context,
    likelihood_draws: Annotated[
        int, typer.Option("--likelihood-draws", min=1, max=LARGEST, help="draws of each log-likelihood, see LLaDA (mc_num)")
    ] = 128,
    batch_size: BatchSizeOption = 256,
    **options: Any,
) -> None:
    """Run lm-evaluation-harness on a language model. All further options are the harness's own: --tasks, --limit,
    --num_fewshot, --apply_chat_template, --output_path, --log_samples, ..."""
    if find_spec("lm_eval") is None:
        raise BadInput("lm-evaluation-harness is not installed: pip install 'anyorder[lm-eval]'")
    given = {"likelihood_draws": likelihood_draws, **{name: options[name] for name in options if _is_given(context, name)}}
    given["pretrained"] = given.pop("model", None) or ""
    given |= _pairs(given.pop("model_options", None) or [])
    words = ["--model", "anyorder", "--batch_size", str(batch_size), "--model_args", json.dumps(given, default=str)]
    run_harness([*words, *context.args])


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _pairs(texts: list[str]) -> dict[str, str]:
    """Options of the model as they are written: `dtype=bfloat16`."""
    from anyorder.session import key_values

    key_values(texts, "--model-option")  # which refuses what is no pair
    return dict(text.split("=", 1) for text in texts)


def run_harness(words: list[str]) -> None:
    """Run the harness's own command line, with our model class among its models.

    Raises:
        BadInput: what the harness refuses.
    """
    from lm_eval.__main__ import cli_evaluate

    import anyorder.cli.harness  # noqa: F401  # registers the model class

    try:
        with patch.object(sys, "argv", ["lm_eval", "run", *words]):
            cli_evaluate()
    except BadInput:
        raise
    except Exception as error:  # whatever the harness and the code of its tasks raise
        if _is_ours(error):
            raise
        raise BadInput(f"lm-evaluation-harness: {first_line(error)}") from error


def _is_ours(error: BaseException) -> bool:
    """Whether an error passed through our model class."""
    trace, names = error.__traceback__, []
    while trace is not None:
        names.append(str(trace.tb_frame.f_globals.get("__name__")))
        trace = trace.tb_next
    return any(name.startswith("anyorder.") and name != __name__ for name in names[1:])
