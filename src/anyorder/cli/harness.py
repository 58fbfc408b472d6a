"""The model class of lm-evaluation-harness: `import anyorder.cli.harness` registers it there as `anyorder`."""

import copy
import inspect
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import typer
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor
from tqdm import tqdm

from anyorder.cli.app import app
from anyorder.cli.language import LanguageSession, open_language
from anyorder.decoding.counts import Fixed
from anyorder.decoding.loop import decode
from anyorder.decoding.tokens import Argmax
from anyorder.denoisers.base import device_of, fingerprint
from anyorder.denoisers.blocks import block_length_of
from anyorder.errors import BadInput
from anyorder.evaluation.likelihood import Process, estimate_bound, exact_bound, uniform
from anyorder.interfaces.arguments import token_rule, whole
from anyorder.interfaces.prompts import collate
from anyorder.processes import Shard
from anyorder.tasks.prompted import Prompted

_LONGEST = 2048
"""Tokens of a window where the denoiser does not say how many it takes, as the harness has it."""

Pair = tuple[list[int], list[int]]
"""Tokens of a context and of what follows it."""


@register_model("anyorder")
class AnyorderLM(LM):
    """Any denoiser of text, under any sampler.

    Args:
        pretrained: the denoiser by name, folder or hub id, as `--model` of the commands has it.
        likelihood_draws: draws of a log-likelihood, see `loglikelihood`.
        batch_size, max_batch_size, device: what the harness passes; "auto" is 32, and `cuda` without a GPU is the CPU.
        options: the options of `anyorder generate` by their names (`order`, `steps`, `block_length`, ...); all others are
            options of the denoiser, such as `dtype` and `revision`.

    Raises:
        BadInput: as `open_language`.
    """

    def __init__(
        self,
        pretrained: str = "",
        likelihood_draws: int = 128,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.shard = Shard.join()
        self._rank, self._world_size = self.shard.index, self.shard.count
        self.draws = whole("likelihood_draws", likelihood_draws, 1)
        self.batch_size = 32 if str(batch_size).startswith("auto") else int(batch_size)
        if device and (not device.startswith("cuda") or (torch.cuda.is_available() and self._world_size == 1)):
            options.setdefault("device", device)
        self.asked = opened(pretrained, options)
        self.model = self.asked.model
        self._device = device_of(self.model.denoiser)
        self.longest = self.model.room or _LONGEST

    # ---- text ---------------------------------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of a Hugging Face model; None with an alphabet of symbols."""
        return self.model.format.tokenizer

    @property
    def tokenizer_name(self) -> str:
        """The name under which the harness keeps requests."""
        return str(self.model.denoiser.source).replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The template that `apply_chat_template` uses; empty where the prompts are those of a task."""
        return str(getattr(self.tokenizer, "chat_template", "") or "")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as text, by the tokenizer's template or, of one turn, by the prompts of the model's task."""
        form = self.model.format
        if form.chat:
            return str(form.render(chat_history, add_generation_prompt))
        if isinstance(form, Prompted) and [turn["role"] for turn in chat_history] == ["user"]:
            return str(form.symbols.decode(form.ask(chat_history[0]["content"])))
        raise BadInput(
            f"{self.model.denoiser.source} has no chat template for {len(chat_history)} turns: leave --apply_chat_template out"
        )

    def tokens_of(self, text: str) -> list[int]:
        """The tokens of a text, with those that start every text of the model."""
        form = self.model.format
        tokens, start = form.tokens_of(text), list(form.symbols.start)
        if self.model.denoiser.mask_token_id in tokens:
            raise BadInput(f"the text {text[:40]!r} holds the mask token of the model")
        return tokens if tokens[: len(start)] == start else [*start, *tokens]

    # ---- generation ---------------------------------------------------------------------------------------------------

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers, each up to its end or the first of the request's `until`. The number of new tokens is the option
        `max_new_tokens`, or else the task's, or, if that leaves no room for a prompt, the model's usual one; a temperature of
        the task that samples goes before the option."""
        found: dict[int, str] = {}
        groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            given = normalize_gen_kwargs(request.args[1], self.model.usual_length)
            token = (given["temperature"], given.get("top_p"), given.get("top_k")) if given["do_sample"] else ()
            groups[self.asked.max_new_tokens or self._fitting(given["max_gen_toks"]), token].append(number)
        seeds = self._seeds(requests)
        with tqdm(total=len(requests), desc="generate", disable=disable_tqdm or self.rank > 0) as bar:
            for (new, token), numbers in groups.items():
                usual = self.model.sampler
                model = copy.copy(self.model)
                model.sampler = usual.replace(token=token_rule(*token)) if token else usual
                prompts = {n: self._shortened(self.tokens_of(requests[n].args[0]), new) for n in numbers}
                for rows in self._batches(numbers, [len(prompts[n]) for n in numbers]):
                    answers = model.generate([prompts[n] for n in rows], new, seeds=seeds[rows], batch_size=len(rows))
                    found |= {n: _cut(answer.text, requests[n].args[1]) for n, answer in zip(rows, answers, strict=True)}
                    bar.update(len(rows))
        for number, request in enumerate(requests):
            self.cache_hook.add_partial("generate_until", request.args, found[number])
        return [found[number] for number in range(len(requests))]

    def _fitting(self, new: int) -> int:
        """The number of new tokens of a task, or the model's usual one where the task's leaves no room for a prompt: the
        harness's own default, 256, is more than a small model takes."""
        left = self._left(new)
        if left is None or left >= 1:
            return new
        usual: int = self.model.usual_length
        message = f"the task asks for {new} new tokens, and the model takes {self.model.room} in all: generating {usual}"
        warnings.warn(f"{message} (max_new_tokens sets another number)", stacklevel=3)
        return usual

    def _left(self, new: int) -> int | None:
        """How many tokens of a prompt, without its start, have room before so many new ones; None if the model does not say."""
        room: int | None = self.model.room
        return None if room is None else room - new - len(self.model.format.symbols.start)

    def _shortened(self, tokens: list[int], new: int) -> list[int]:
        """The end of a prompt that is too long, as the harness cuts it for other models."""
        start, left = list(self.model.format.symbols.start), self._left(new)
        if left is None or len(tokens) - len(start) <= left:
            return tokens
        if left < 1:
            raise BadInput(
                f"the model takes {self.model.room} tokens, of which {new} are new ones: set a smaller max_new_tokens"
            )
        return [*start, *tokens[-left:]]

    def _batches(self, numbers: Sequence[int], lengths: list[int]) -> Iterator[list[int]]:
        """Requests of similar length together."""
        ranked = [n for _, n in sorted(zip(lengths, numbers, strict=True), reverse=True)]
        yield from (ranked[first : first + self.batch_size] for first in range(0, len(ranked), self.batch_size))

    def _seeds(self, requests: list[Instance]) -> Tensor:
        """A seed of each request, int64 (N,), that depends on what is asked, not on batches and processes."""
        copies: Counter[tuple[Any, ...]] = Counter()
        seeds = []
        for request in requests:
            name = (request.task_name, request.doc_id, request.idx)
            seeds.append(self.asked.seed * 2**32 + zlib.crc32(repr((*name, copies[name])).encode()))
            copies[name] += 1
        return torch.tensor(seeds, dtype=torch.int64)

    # ---- likelihood ---------------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-likelihoods as LLaDA publishes them (arXiv 2502.09992, eq. 6), and whether greedy decoding gives the same text.

        A number of masks is drawn uniformly, then so many positions of the continuation, never of the context; the masked
        tokens' log-probabilities count n / masks. The mean of `likelihood_draws` of these is a bound of the log-likelihood.
        Where n tokens have no more than that many subsets, the mean is taken over all of them and exact. Of a block-causal
        denoiser whole paths are drawn, at n forward passes each. Greedy decoding commits one token at a time in the sampler's
        order.
        """
        pairs = [self._pair(*request.args) for request in requests]
        seeds = self._seeds(requests)
        greedy = self._greedy(pairs, seeds)
        found = []
        progress = tqdm(zip(requests, pairs, seeds.tolist(), greedy, strict=True), desc="loglikelihood",
                        total=len(pairs), disable=disable_tqdm or self.rank > 0)  # fmt: skip
        for request, (context, continuation), seed, right in progress:
            found.append((self._log_likelihood(context, continuation, seed), right))
            self.cache_hook.add_partial("loglikelihood", request.args, found[-1])
        return found

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihoods of whole texts, in windows that do not overlap if they are longer than the model takes."""
        found = []
        symbols, form = self.model.format.symbols, self.model.format
        prefix = next(iter((*symbols.start, *sorted(form.ends), form.pad_token_id)))
        seeds = self._seeds(requests).tolist()
        for request, seed in zip(tqdm(requests, disable=disable_tqdm or self.rank > 0), seeds, strict=True):
            tokens = form.tokens_of(request.args[0])
            windows = map(make_disjoint_window, get_rolling_token_windows(tokens, prefix, self.longest - 1, 1))
            found.append(sum(self._log_likelihood(list(a), list(b), seed + n) for n, (a, b) in enumerate(windows)))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, found[-1])
        return found

    def _pair(self, context: str, continuation: str) -> Pair:
        """Spaces at the end of a context belong to the continuation, whose first token they are part of."""
        stripped = context.rstrip()
        continuation, context = context[len(stripped) :] + continuation, stripped
        before, whole_text = self.tokens_of(context) if context else self.tokens_of(""), self.tokens_of(context + continuation)
        after = whole_text[len(before) :]
        if len(after) >= self.longest:
            raise BadInput(f"a continuation takes {len(after)} tokens, and the model {self.longest} with its context")
        kept = min(len(before), self.longest - len(after))
        return before[len(before) - kept :], after

    def _log_likelihood(self, context: list[int], continuation: list[int], seed: int) -> float:
        denoiser = self.model.denoiser
        tokens = torch.tensor([*context, *[denoiser.mask_token_id] * len(continuation)])
        x0 = torch.tensor([*context, *continuation])
        process = Process(denoiser, uniform, batch_size=self.batch_size)
        if 2 ** len(continuation) <= self.draws:
            return exact_bound(process, tokens, x0).e1
        states = "stratified" if block_length_of(denoiser) is None else "path"
        return estimate_bound(process, tokens, x0, self.draws, states=states, seed=seed).e1

    def _greedy(self, pairs: list[Pair], seeds: Tensor) -> list[bool]:
        """Whether decoding without chance, one token at a time, gives each continuation; seeds int64 (N,) are for orders that
        draw."""
        denoiser, found = self.model.denoiser, [True] * len(pairs)
        sampler = self.model.sampler.replace(token=Argmax(), count=Fixed(1), noise=0.0, anneal=False, steps=None)
        numbers = [n for n, (_, continuation) in enumerate(pairs) if continuation]
        for rows in self._batches(numbers, [len(pairs[n][0]) + len(pairs[n][1]) for n in numbers]):
            masked = [[*pairs[n][0], *[denoiser.mask_token_id] * len(pairs[n][1])] for n in rows]
            tokens, mask = collate(masked, self.model.format.pad_token_id)
            decoded = decode(denoiser, tokens, sampler, seeds=seeds[rows], attention_mask=mask).tokens.tolist()
            for n, row in zip(rows, decoded, strict=True):
                context, continuation = pairs[n]
                found[n] = row[len(context) : len(context) + len(continuation)] == continuation
        return found

    # ---- reports and processes ----------------------------------------------------------------------------------------

    def get_model_info(self) -> dict[str, Any]:
        """What the harness's report says about model and sampler."""
        sampler = self.model.sampler
        facts = {"denoiser": self.model.denoiser.source, "denoiser_fingerprint": fingerprint(self.model.denoiser)}
        return {**facts, "sampler": str(sampler), "steps": sampler.steps, "likelihood_draws": self.draws}

    def all_gather(self, tensor: Tensor) -> Tensor:
        """See `LM`."""
        if self.world_size == 1:
            return tensor
        from accelerate.utils import gather

        gathered: Tensor = gather(tensor)
        return gathered

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        """See `LM`."""
        found = self.shard.gather(obj)
        return found if self.rank == dst else None

    def barrier(self) -> None:
        """See `LM`."""
        self.shard.gather(None)


def opened(pretrained: str, given: dict[str, Any]) -> LanguageSession:
    """A language model from the options of `anyorder generate`, read and checked by the command itself.

    Raises:
        BadInput: a value that an option does not take.
    """
    command = typer.main.get_command(app).commands["generate"]  # type: ignore[attr-defined]
    shared = inspect.signature(open_language).parameters
    declared = {option.name: option for option in command.params if option.name in shared}
    words = ["--model", str(pretrained)] if pretrained else []
    for name, value in given.items():
        option = declared.get(name)
        if option is None or option.multiple:
            words += ["--model-option", f"{name}={value}"]
        elif isinstance(value, bool) and option.is_flag:
            words += [option.opts[0] if value else (option.secondary_opts or [""])[0]]
        elif value is not None:
            words += [option.opts[0], str(value)]
    try:
        with command.make_context("generate", [*filter(None, words), "?"]) as context:
            return open_language(**{name: value for name, value in context.params.items() if name in shared})
    except typer.BadParameter as error:
        raise BadInput(f"model arguments: {error.format_message()}") from error


def _cut(text: str, settings: dict[str, Any]) -> str:
    """A text up to the first of the strings at which it stops."""
    until = settings.get("until", [])
    for stop in [until] if isinstance(until, str) else until:
        text = text.partition(stop)[0] if stop else text
    return text
