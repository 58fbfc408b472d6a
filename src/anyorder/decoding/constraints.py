"""Which tokens may be committed: masks of logits, and finite automata over the tokens of a hole."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor

from anyorder import noise
from anyorder.decoding.tokens import Argmax, Sample, TokenRule
from anyorder.errors import BadInput, counted, shorten
from anyorder.own_code import naming
from anyorder.prediction import Prediction
from anyorder.signatures import check_argument
from anyorder.state import DecodeState

LogitsMask = Callable[[DecodeState, Prediction], Tensor]
"""Which tokens may be committed now: bool (K, V) from a state and a prediction, a row for each predicted position."""


_UNLIKELY = -50.0
"""Log-probability of a token that was ruled out, where no text of a pattern does without it."""


def check_mask(logits_mask: object) -> None:
    """Raise BadInput unless it can be called."""
    if not callable(logits_mask):
        raise BadInput(f"logits_mask is {shorten(repr(logits_mask))}; it must be a function of a state and a prediction")


def check_lists(logits_mask: LogitsMask, state: DecodeState, vocab_size: int) -> None:
    """Raise BadInput if a mask, or one within `all_of`, lists tokens that are not for this batch and this vocabulary."""
    for mask in logits_mask.masks if isinstance(logits_mask, _All) else (logits_mask,):
        if isinstance(mask, AllowedTokens):
            mask.check(state, vocab_size)


def constrained(prediction: Prediction, state: DecodeState, logits_mask: LogitsMask) -> Prediction:
    """The prediction with a logit of minus infinity for every token that may not be committed. Orders, count rules and token
    rules see the distribution over the others.

    Raises:
        BadInput: no bool (K, V), or a position at which no token is left.
    """
    with naming("logits mask", logits_mask):
        allowed = logits_mask(state, prediction)
    shape = tuple(prediction.logits.shape)
    if not isinstance(allowed, Tensor) or allowed.dtype != torch.bool or tuple(allowed.shape) != shape:
        given = f"{allowed.dtype} {tuple(allowed.shape)}" if isinstance(allowed, Tensor) else type(allowed).__name__
        raise BadInput(f"the logits mask returned {given}; it must return bool {shape}, a row for each predicted position")
    logits = prediction.logits.masked_fill(~allowed, -torch.inf)
    nothing = (logits == -torch.inf).all(dim=1)
    if nothing.any():  # a remasker may have ruled the only token out that is allowed: then it is likely all the same
        ruled_out = state.rejected[prediction.predicted]
        only = nothing & (ruled_out >= 0) & allowed.gather(1, ruled_out.clamp(min=0)[:, None])[:, 0]
        logits[only, ruled_out[only]] = 0.0
        nothing = nothing & ~only
    if nothing.any():
        row, position = prediction.predicted.nonzero()[int(nothing.nonzero()[0, 0])].tolist()
        raise BadInput(
            f"the constraint is impossible: row {int(state.row[row])}, position {position} has no token that is allowed and "
            "that the model produces"
        )
    return prediction.with_logits(logits)


def all_of(masks: Sequence[LogitsMask]) -> LogitsMask:
    """The tokens that every one of some masks allows; a mask sees what those before it have left.

    Raises:
        BadInput: one that is no function.
    """
    for mask in masks:
        check_mask(mask)
    return _All(tuple(masks))


@dataclass(frozen=True)
class _All:
    """See `all_of`."""

    masks: tuple[LogitsMask, ...]

    def __call__(self, state: DecodeState, prediction: Prediction) -> Tensor:
        for mask in self.masks:
            prediction = constrained(prediction, state, mask)
        return prediction.logits > -torch.inf


@dataclass(frozen=True)
class AllowedTokens:
    """A logits mask that lists the tokens of some positions.

    Args:
        rows: for each row of the batch, the allowed tokens by position, counted from the first one that is no padding; any
            token is allowed at positions that are not listed.

    Raises:
        BadInput: no such lists; from `decode`, another number of rows than the batch has, a position behind the end of its row,
            or what is no token.
    """

    rows: Sequence[Mapping[int, Iterable[int]]]

    def __post_init__(self) -> None:
        check_argument("rows", self.rows, Sequence)
        for row in self.rows:
            check_argument("rows", row, Mapping)
        try:
            rows = tuple({position: tuple(sorted(tokens)) for position, tokens in row.items()} for row in self.rows)
        except TypeError as error:
            raise BadInput(f"AllowedTokens lists token ids by position, such as [{{0: [5, 7]}}]: {error}") from error
        object.__setattr__(self, "rows", rows)

    def check(self, state: DecodeState, vocab_size: int) -> None:
        """Raise BadInput unless the lists are for this batch and this vocabulary."""
        if len(self.rows) != len(state):
            lists = counted(len(self.rows), "row")
            raise BadInput(
                f"AllowedTokens has {lists}, and the batch {len(state)}: give one for each, {{}} where all is allowed"
            )
        real = torch.ones_like(state.tokens) if state.attention_mask is None else state.attention_mask.long()
        for number, (row, length) in enumerate(zip(self.rows, real.sum(dim=1).tolist(), strict=True)):
            for position, tokens in row.items():
                if not _is_index(position, length):
                    raise BadInput(
                        f"AllowedTokens, row {number}: position {position!r} is none of its positions 0 to {length - 1}"
                    )
                if wrong := [token for token in tokens if not _is_index(token, vocab_size)]:
                    where = f"row {number}, position {position}"
                    raise BadInput(f"AllowedTokens, {where}: {wrong[0]!r} is none of the model's tokens 0 to {vocab_size - 1}")

    def __call__(self, state: DecodeState, prediction: Prediction) -> Tensor:
        allowed = torch.ones_like(prediction.logits, dtype=torch.bool)
        number = prediction.scatter(torch.arange(len(allowed), device=allowed.device), fill=-1)
        for found, index, row in zip(number, state.index, state.row.tolist(), strict=True):
            for position, tokens in self.rows[row].items():
                here = found[(index == position) & (found >= 0)]
                allowed[here] = False
                allowed[here[:, None], torch.tensor(tokens, dtype=torch.int64, device=allowed.device)] = True
        return allowed


def _is_index(value: object, count: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and 0 <= int(value) < count


class Automaton:
    """A finite automaton over tokens: the texts of a regular language, token by token.

    Args:
        following: int64 (S, V), the state behind each state and token, -1 where the text cannot go on. State 0 is the start.
        accepting: bool (S,), states in which a text may stop.

    Raises:
        BadInput: other shapes, or no state.
    """

    def __init__(self, following: Tensor, accepting: Tensor) -> None:
        if following.dim() != 2 or accepting.shape != following.shape[:1] or not len(following):
            raise BadInput(
                f"following is {tuple(following.shape)} and accepting {tuple(accepting.shape)}; they must be (S, V) and (S,)"
            )
        self.accepting = accepting
        self.following = torch.where(following < 0, len(following), following)  # the last state is the dead end

    def to(self, device: torch.device) -> "Automaton":
        """The same on a device."""
        if self.following.device == device:
            return self
        moved = copy.copy(self)
        moved.following, moved.accepting = self.following.to(device), self.accepting.to(device)
        return moved

    def ended_by(self, ends: Sequence[int], pad: int) -> "Automaton":
        """The texts of this language, then one of the ends, then ends or padding up to the last position."""
        states, words = self.following.shape
        following = torch.full((states + 1, words), -1, dtype=torch.int64, device=self.following.device)
        following[:states] = self.following.masked_fill(self.following == states, -1)
        finals = torch.tensor(list(ends), device=following.device)
        stopping = self.accepting.nonzero()
        following[stopping, finals] = states
        following[states, torch.tensor([*ends, pad], device=following.device)] = states
        return Automaton(following, torch.cat([self.accepting, torch.ones_like(self.accepting[:1])]))

    def fits(self, length: int) -> bool:
        """Whether some text has this many tokens."""
        reached = torch.zeros_like(self.accepting)
        reached[0] = True
        for _ in range(length):
            after = _with_dead_end(torch.zeros_like(reached), False)
            after[self.following[reached].flatten()] = True
            reached = after[:-1]
        return bool((reached & self.accepting).any())

    def allowed(self, permitted: Tensor) -> Tensor:
        """The tokens that some accepted text has at each position, bool (n, V), among texts of n tokens that are permitted.

        Args:
            permitted: bool (n, V), the tokens that each position may have; one alone where a token is fixed.
        """
        after = [_with_dead_end(self.accepting, False)]
        for tokens in permitted.flip(0):
            after.append(_with_dead_end((after[-1][self.following] & tokens).any(dim=1), False))
        after.reverse()
        reached = torch.zeros_like(self.accepting)
        reached[0] = True
        found = []
        for tokens, goal in zip(permitted, after[1:], strict=True):
            possible = goal[self.following] & tokens & reached[:, None]
            found.append(possible.any(dim=0))
            reached = torch.zeros_like(goal)
            reached[self.following[possible]] = True
            reached = reached[:-1]
        return torch.stack(found)

    def best(self, weights: Tensor) -> Tensor:
        """The accepted text with the largest sum of weights float (n, V): int64 (n,)."""
        return self._path(weights, lambda values: values.amax(dim=1), lambda values, _: values)[0]

    def sample(self, weights: Tensor, gumbel: Tensor) -> tuple[Tensor, Tensor]:
        """An accepted text, drawn with probability proportional to exp of its sum of weights.

        Args:
            weights: float (n, V). gumbel: standard Gumbel noise (n, V).

        Returns:
            int64 (n,), and the log-probability of each token given those before it, float (n,).
        """
        return self._path(weights, lambda values: values.logsumexp(dim=1), lambda values, j: values + gumbel[j])

    def _path(
        self, weights: Tensor, total: Callable[[Tensor], Tensor], drawn: Callable[[Tensor, int], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Backward over what can follow, then forward along the tokens that are taken."""
        nothing = torch.zeros_like(self.accepting, dtype=weights.dtype).masked_fill(~self.accepting, -torch.inf)
        rest = [_with_dead_end(nothing, -torch.inf)]
        for row in weights.flip(0):
            rest.append(_with_dead_end(total(row + rest[-1][self.following]), -torch.inf))
        rest.reverse()
        if float(rest[0][0]) == -torch.inf:
            raise BadInput(f"no text of the pattern has {counted(len(weights), 'token')} as they are asked for")
        at, tokens, log_probs = 0, [], []
        for j, row in enumerate(weights):
            values = row + rest[j + 1][self.following[at]]
            token = drawn(values, j).argmax()
            tokens.append(token)
            log_probs.append(torch.log_softmax(values, dim=0)[token])
            at = int(self.following[at, token])
        return torch.stack(tokens), torch.stack(log_probs)


def _with_dead_end(values: Tensor, value: float) -> Tensor:
    return torch.cat([values, values.new_full((1,), value)])


class _Run(NamedTuple):
    """Positions that were generated side by side: their row, columns (n,), tokens (n,) and numbers in the prediction (n,), -1
    where there is none."""

    row: int
    columns: Tensor
    tokens: Tensor
    numbers: Tensor
    masked: Tensor


@dataclass(frozen=True)
class Matching(TokenRule):
    """A token rule whose tokens complete every hole to a text of a regular language, however many are committed at once.

    In every step it proposes one text for each hole: the likeliest one that agrees with what is committed, or one that is drawn
    from the model's distribution restricted to such texts. So any subset of its proposals can be completed. Use `allowed` as
    the logits mask beside it: then orders see the tokens that keep the committed ones completable, and no others.

    Args:
        automata: of the holes of each row from left to right; a single one for all holes.
        rule: `Argmax`, or `Sample` without top_p and top_k.

    Raises:
        BadInput: another rule.
    """

    automata: tuple[Automaton, ...]
    rule: TokenRule = Argmax()

    def __post_init__(self) -> None:
        if not isinstance(self.rule, Argmax) and not (isinstance(self.rule, Sample) and self.rule.plain):
            raise BadInput("a pattern takes the likeliest tokens, or draws them at a temperature: leave top_p and top_k out")

    def allowed(self, state: DecodeState, prediction: Prediction) -> Tensor:
        """A logits mask: the tokens that keep the hole completable, see `LogitsMask`."""
        out = torch.ones_like(prediction.logits, dtype=torch.bool)
        for run, automaton in self._runs(state, prediction):
            possible = self._weights(run, prediction.logits) > -torch.inf
            keep = automaton.allowed(possible)
            if not keep.any(dim=1).all():  # a remasker may have ruled out what every text needs
                keep = automaton.allowed(possible | self._ruled_out(state, run, possible))
            if not keep.any(dim=1).all():
                raise BadInput(
                    f"no text of the pattern has {counted(len(run.columns), 'token')} as row {int(state.row[run.row])} asks "
                    f"from position {int(run.columns[0])} on: give the hole another length, or loosen the pattern"
                )
            known = run.numbers >= 0
            out[run.numbers[known]] = keep[known]
        return out

    def __call__(self, state: DecodeState, prediction: Prediction) -> tuple[Tensor, Tensor]:
        tokens = torch.zeros(len(prediction.logits), dtype=torch.int64, device=prediction.logits.device)
        log_probs = torch.zeros(len(tokens), device=tokens.device)
        for run, automaton in self._runs(state, prediction):
            weights = self._weights(run, prediction.logits)
            ruled_out = bool((state.rejected[run.row, run.columns] >= 0).any())
            if ruled_out and not automaton.allowed(weights > -torch.inf).any(dim=1).all():
                weights = weights.masked_fill(self._ruled_out(state, run, weights > -torch.inf), _UNLIKELY)
            known = run.numbers >= 0
            if isinstance(self.rule, Sample):
                found, chances = automaton.sample(weights / self.rule.temperature, self._gumbel(state, run, weights.shape[1]))
                log_probs[run.numbers[known]] = chances[known].float()
            else:
                found = automaton.best(weights)
            tokens[run.numbers[known]] = found[known]
        return tokens, log_probs if isinstance(self.rule, Sample) else prediction.log_probs_of(tokens).clamp(min=_UNLIKELY)

    def fits(self, generated: Tensor) -> bool:
        """Whether each hole of a row, given as bool (L,), has a length that some text of its pattern has.

        Raises:
            BadInput: another number of holes than of automata.
        """
        return all(automaton.fits(len(columns)) for columns, automaton in self._holes(generated))

    def _holes(self, generated: Tensor) -> Iterator[tuple[Tensor, Automaton]]:
        """The columns (n,) of each hole of a row, with its automaton."""
        columns = generated.nonzero()[:, 0]
        runs = columns.tensor_split(((columns.diff() > 1).nonzero()[:, 0] + 1).cpu())
        if len(self.automata) not in (1, len(runs)):
            raise BadInput(f"there are {len(self.automata)} patterns and {counted(len(runs), 'hole')}: give one for each")
        for number, own in enumerate(runs):
            yield own, self.automata[min(number, len(self.automata) - 1)].to(own.device)

    def _runs(self, state: DecodeState, prediction: Prediction) -> Iterator[tuple[_Run, Automaton]]:
        """The holes in which a token is masked or predicted again, with their automata."""
        unfilled = state.unfilled
        numbers = prediction.scatter(torch.arange(len(prediction.logits), device=state.tokens.device), fill=-1)
        for row, generated in enumerate(state.generated):
            for own, automaton in self._holes(generated):
                here = numbers[row, own]
                run = _Run(row, own, state.tokens[row, own], here, unfilled[row, own] | (here >= 0))
                if bool(run.masked.any()):
                    yield run, automaton

    @staticmethod
    def _ruled_out(state: DecodeState, run: _Run, possible: Tensor) -> Tensor:
        """The tokens bool (n, V) that a remasker has ruled out."""
        rejected = state.rejected[run.row, run.columns]
        words = torch.arange(possible.shape[1], device=possible.device)
        return (rejected[:, None] == words) & (run.numbers >= 0)[:, None] & ~possible

    @staticmethod
    def _weights(run: _Run, logits: Tensor) -> Tensor:
        """Log-probabilities float64 (n, V); 0 for committed tokens alone, and for all tokens where nothing is predicted."""
        out = torch.zeros((len(run.columns), logits.shape[1]), dtype=torch.float64, device=logits.device)
        known = run.numbers >= 0
        out[known] = torch.log_softmax(logits[run.numbers[known]].double(), dim=-1)
        fixed = (~run.masked).nonzero()[:, 0]
        out[fixed] = -torch.inf
        out[fixed, run.tokens[fixed]] = 0.0
        return out

    @staticmethod
    def _gumbel(state: DecodeState, run: _Run, words: int) -> Tensor:
        index = state.index[run.row, run.columns][:, None]
        return noise.gumbel(
            state.seeds[run.row], noise.Purpose.TOKEN, state.step[run.row], index, torch.arange(words, device=index.device)
        )
