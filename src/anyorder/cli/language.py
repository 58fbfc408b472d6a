"""Language models on the command line: generate; and the options of all commands that ask a language model."""

import sys
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from anyorder.cli.app import command
from anyorder.cli.options import (
    STEPS,
    AnnealOption,
    BlockLengthOption,
    CacheOption,
    ChatOption,
    CountOption,
    EosPenaltyOption,
    IgnoreFingerprintOption,
    MaxNewTokensOption,
    ModelOption,
    ModelOptionsOption,
    NoiseOption,
    OrderOption,
    PolicyOption,
    RefreshOption,
    RemoteCodeOption,
    SavedStepsOption,
    SeedOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
    is_saved,
    read_budget,
    read_scale,
    token_rule,
    with_options_of,
)
from anyorder.errors import BadInput, counted

USUAL_MODEL = "words"


@dataclass(frozen=True)
class LanguageSession:
    """A language model with its sampler, and how it is asked."""

    model: Any
    max_new_tokens: int | None
    seed: int


def open_language(
    model: ModelOption = None,
    order: OrderOption = None,
    steps: SavedStepsOption = None,
    count: CountOption = "",
    block_length: BlockLengthOption = None,
    cache: CacheOption = "none",
    refresh: RefreshOption = "block",
    noise: NoiseOption = None,
    anneal: AnnealOption = False,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    top_k: TopKOption = None,
    eos_penalty: EosPenaltyOption = 0.0,
    max_new_tokens: MaxNewTokensOption = None,
    chat: ChatOption = True,
    seed: SeedOption = 0,
    policy: PolicyOption = None,
    ignore_fingerprint: IgnoreFingerprintOption = False,
    trust_remote_code: RemoteCodeOption = False,
    model_options: ModelOptionsOption = None,
) -> LanguageSession:
    """A language model from options, each declared here and nowhere else.

    Raises:
        BadInput: options that cannot be used, or a model without tokens for text.
    """
    from anyorder.decoding.caches import none
    from anyorder.decoding.sampler import as_sampler
    from anyorder.decoding.spelling import read_refresh
    from anyorder.interfaces.language import LanguageModel
    from anyorder.orders.learned import check_policy_folder
    from anyorder.session import key_values
    from anyorder.zoo import load_denoiser

    scale = read_scale(noise, anneal)
    saved = is_saved(order, count=bool(count), temperature=temperature > 0, top_p=top_p < 1, top_k=top_k is not None)
    parts: dict[str, Any] = {"token": token_rule(temperature, top_p, top_k), "count": count or None}
    placed: dict[str, Any] = {"block_length": block_length, "cache": cache, "refresh": read_refresh(refresh)}
    denoiser = load_denoiser(
        model or USUAL_MODEL, trust_remote_code=trust_remote_code, **key_values(model_options, "--model-option")
    )
    if policy is not None:
        check_policy_folder(policy)
        denoiser.own_order = str(policy)
    sampler = as_sampler(order or ("policy" if denoiser.own_order else "confidence"), **parts, **placed)
    if saved and (block_length, cache, refresh) != (None, "none", "block"):
        if sampler.block_length is not None or sampler.cache is not none:
            raise BadInput(
                f"{order} is a saved sampler with blocks of its own: leave out --block-length, --cache and --refresh"
            )
        sampler = sampler.replace(**placed)
    sampler = sampler if scale is None else sampler.replace(noise=scale, anneal=anneal)
    sampler = sampler.bind(denoiser, strict=not ignore_fingerprint)
    made = LanguageModel(denoiser, sampler, chat=chat, eos_penalty=eos_penalty)
    budget = STEPS if steps is None and made.sampler.steps is None else steps
    if budget is not None:  # "all" is as many as there are tokens to generate, whoever says how many
        made.sampler = made.sampler.replace(steps=None if budget.strip() == "all" else read_budget(budget, 1))
    return LanguageSession(made, max_new_tokens, seed)


@command()
@with_options_of(open_language)
def generate(
    prompt: Annotated[
        str,
        typer.Argument(
            help="what to answer, or a text with holes (after --, if it begins with a minus); - reads standard input"
        ),
    ],
    system: Annotated[str, typer.Option("--system", help="system prompt, for models with a chat template")] = "",
    pattern: Annotated[
        str | None, typer.Option("--pattern", help="regular expression that the whole answer must match, such as '[0-9]+'")
    ] = None,
    stream: Annotated[bool, typer.Option(help="show the draft after every step, where standard output is a terminal")] = True,
    **options: Any,
) -> None:
    """Answer a prompt with a language model, or fill the holes of a text, [MASK] or [MASK:5] or [MASK:1-8]. In a terminal, the
    tokens of an answer appear where they are committed, in any order."""
    from rich.console import Console

    from anyorder.cli.drafts import Draft
    from anyorder.interfaces.holes import has_holes

    text = sys.stdin.read().removesuffix("\n") if prompt == "-" else prompt
    asked = open_language(**options)
    if has_holes(text):
        if system:
            raise BadInput("a text with holes is completed as it is: leave --system out")
        print(asked.model.fill(text, seed=asked.seed, pattern=pattern))
        return
    tokens = asked.model.prompt(text, system)
    console = Console(highlight=False)
    with Draft(asked.model.format, console, stream and console.is_terminal) as draft:
        (answer,) = asked.model.generate([tokens], asked.max_new_tokens, seeds=asked.seed, pattern=pattern, on_step=draft)
    print(answer.text)
    passes = f"{answer.nfe} forward pass{'es' * (answer.nfe != 1)}"
    print(f"{counted(len(answer.tokens), 'token')} before the end; {passes}", file=sys.stderr)
