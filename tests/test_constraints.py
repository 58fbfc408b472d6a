"""Constraints: masks of logits, allowed tokens, automata against enumeration, patterns, holes of unknown length."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import anyorder
from anyorder import Argmax, Automaton, Matching, Sample, Sampler
from anyorder.decoding.constraints import AllowedTokens, all_of
from anyorder.decoding.remaskers import CriticUndo
from anyorder.errors import BadInput, PartFailed
from anyorder.interfaces.holes import lengths_of
from anyorder.interfaces.infill import infill
from anyorder.interfaces.patterns import automaton_of
from anyorder.prediction import Prediction
from anyorder.state import DecodeState
from anyorder.tasks.alphabets import CHARACTERS
from anyorder.tasks.tokenizer_alphabet import TokenizerAlphabet
from conftest import HashDenoiser

MASK, WORDS = 0, 5  # of HashDenoiser


def automata(seed: int, states: int = 4) -> Automaton:
    """A random automaton over five tokens that never takes the mask."""
    generator = torch.Generator().manual_seed(seed)
    following = torch.randint(-1, states, (states, WORDS), generator=generator)
    following[:, MASK] = -1
    return Automaton(following, torch.rand(states, generator=generator) < 0.5)


def accepts(automaton: Automaton, text: Sequence[int]) -> bool:
    state = 0
    for token in text:
        state = int(automaton.following[state, token])
        if state == len(automaton.following):
            return False
    return bool(automaton.accepting[state])


def texts_of(automaton: Automaton, fixed: Sequence[int]) -> list[tuple[int, ...]]:
    """All accepted texts that agree with the tokens that are fixed; -1 for any."""
    every = itertools.product(*[range(WORDS) if token < 0 else [token] for token in fixed])
    return [text for text in every if accepts(automaton, text)]


FIXED = st.lists(st.integers(-1, WORDS - 1), min_size=1, max_size=4)


@given(st.integers(0, 10**6), FIXED)
@settings(max_examples=60, deadline=None)
def test_the_tokens_that_keep_a_text_completable_are_those_of_enumeration(seed: int, fixed: list[int]) -> None:
    automaton = automata(seed)
    permitted = torch.tensor([[token in (-1, word) for word in range(WORDS)] for token in fixed])
    expected = torch.zeros(len(fixed), WORDS, dtype=torch.bool)
    for text in texts_of(automaton, fixed):
        expected[range(len(fixed)), list(text)] = True
    assert torch.equal(automaton.allowed(permitted), expected)


@given(st.integers(0, 10**6), FIXED)
@settings(max_examples=60, deadline=None)
def test_the_best_text_is_that_of_enumeration(seed: int, fixed: list[int]) -> None:
    automaton = automata(seed)
    weights = torch.randn(len(fixed), WORDS, generator=torch.Generator().manual_seed(seed)).double()
    weights[torch.tensor([[token not in (-1, word) for word in range(WORDS)] for token in fixed])] = -torch.inf
    texts = texts_of(automaton, fixed)
    if not texts:
        with pytest.raises(BadInput, match="no text of the pattern"):
            automaton.best(weights)
        return
    totals = {text: float(sum(weights[j, token] for j, token in enumerate(text))) for text in texts}
    found = tuple(automaton.best(weights).tolist())
    assert totals[found] == pytest.approx(max(totals.values()))


def test_texts_are_drawn_with_the_models_probabilities_among_those_of_the_language() -> None:
    automaton = automata(2)
    weights = torch.log_softmax(torch.randn(3, WORDS, generator=torch.Generator().manual_seed(1)).double(), dim=1)
    texts = texts_of(automaton, [-1] * 3)
    chances = torch.softmax(torch.stack([sum(weights[j, t] for j, t in enumerate(text)) for text in texts]), dim=0)  # type: ignore[arg-type]
    generator, counts = torch.Generator().manual_seed(0), dict.fromkeys(texts, 0)
    for _ in range(2000):
        noise = -torch.log(-torch.log(torch.rand(3, WORDS, generator=generator, dtype=torch.float64)))
        drawn, log_probs = automaton.sample(weights, noise)
        text = tuple(drawn.tolist())
        counts[text] += 1
        assert float(log_probs.sum()) == pytest.approx(float(chances[texts.index(text)].log()))
    assert len(texts) > 4
    for text, chance in zip(texts, chances.tolist(), strict=True):
        assert abs(counts[text] / 2000 - chance) < 4 * (chance * (1 - chance) / 2000) ** 0.5 + 1e-3


@pytest.mark.parametrize("steps", [1, 2, None])
@pytest.mark.parametrize("token", [Argmax(), Sample(0.7)])
@pytest.mark.parametrize("order", ["random", "confidence", "confidence@threshold:0.3", "confidence@blocks:2"])
def test_any_order_and_any_number_at_once_end_in_the_language(steps: int | None, token: Any, order: str) -> None:
    """The middle is given, so that both sides must agree with it."""
    automaton, seen = automata(3), []
    matching = Matching((automaton,), token)
    tokens = torch.tensor([[1, MASK, MASK, MASK, MASK, 2], [1, 2, MASK, MASK, MASK, 1]])
    sampler = Sampler.parse(order, steps=max(steps or 2, 2) if steps and "blocks" in order else steps, token=matching)

    def watch(output: Any) -> None:
        for row, automata_row in enumerate(output.after.tokens):
            hole = automata_row[output.after.generated[row]]
            fixed = torch.where(hole == MASK, -1, hole).tolist()
            seen.append(bool(texts_of(automaton, fixed)))

    result = anyorder.decode(HashDenoiser(), tokens, sampler, logits_mask=matching.allowed, on_step=watch)
    for row, start in zip(result.tokens, tokens, strict=True):
        assert accepts(automaton, row[start == MASK].tolist())
    assert all(seen) and seen


def test_a_row_decodes_under_a_constraint_as_alone() -> None:
    matching = Matching((automata(3),), Sample(0.9))
    tokens = torch.tensor([[1, MASK, MASK, MASK, 2], [MASK, MASK, MASK, 3, 3]])
    sampler = Sampler("random", token=matching)
    together = anyorder.decode(HashDenoiser(), tokens, sampler, seeds=torch.tensor([4, 9]), logits_mask=matching.allowed)
    alone = anyorder.decode(HashDenoiser(), tokens[1:], sampler, seeds=9, logits_mask=matching.allowed)
    assert torch.equal(together.tokens[1], alone.tokens[0])


def test_orders_see_the_distribution_over_what_is_allowed() -> None:
    """A token alone at its position is certain, and comes first."""
    tokens = torch.tensor([[1, MASK, MASK, MASK]])
    seen: list[Any] = []
    allowed = AllowedTokens([{2: [3]}])
    result = anyorder.decode(HashDenoiser(), tokens, "confidence", logits_mask=allowed, on_step=seen.append)
    assert result.tokens[0, 2] == 3 and result.commit_step[0, 2] == 0 and result.token_log_probs[0, 2] == 0.0
    plain = anyorder.decode(HashDenoiser(), tokens, "confidence")
    assert plain.tokens[0, 2] != 3 or plain.commit_step[0, 2] != 0


def test_undo_keeps_the_only_token_that_is_allowed() -> None:
    """The critic doubts it, and rules it out; nothing else may stand there."""

    def doubts(state: DecodeState, prediction: Prediction) -> Tensor:
        return torch.full(state.tokens.shape, -9.0)

    tokens = torch.tensor([[1, MASK, MASK, MASK]])
    sampler = anyorder.Sampler("confidence", remasker=CriticUndo(critic=doubts, accept=0.9), steps=12)
    result = anyorder.decode(HashDenoiser(), tokens, sampler, logits_mask=AllowedTokens([{2: [3]}]))
    assert result.tokens[0, 2] == 3 and int(result.remasked) > 3


def test_allowed_tokens_count_from_the_first_one_that_is_no_padding() -> None:
    tokens = torch.tensor([[4, 1, MASK, MASK], [1, MASK, MASK, 2]])
    mask = torch.tensor([[False, True, True, True], [True] * 4])
    allowed = AllowedTokens([{1: [2, 3]}, {1: [1], 2: [4]}])
    result = anyorder.decode(HashDenoiser(), tokens, "confidence", logits_mask=allowed, attention_mask=mask)
    assert int(result.tokens[0, 2]) in (2, 3) and result.tokens[1, 1:3].tolist() == [1, 4]


def nothing(state: DecodeState, prediction: Prediction) -> Tensor:
    return torch.zeros_like(prediction.logits, dtype=torch.bool)


def broken(state: DecodeState, prediction: Prediction) -> Tensor:
    raise KeyError("no such rule")


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (nothing, BadInput, "the constraint is impossible: row 0, position 1"),
        (lambda state, prediction: prediction.logits, BadInput, "must return bool"),
        (lambda state, prediction: None, BadInput, "the logits mask returned NoneType"),
        (broken, PartFailed, "the logits mask .*broken failed .* KeyError"),
        (3, BadInput, "logits_mask is 3; it must be a function"),
        (AllowedTokens([{1: [MASK]}]), BadInput, "has no token that is allowed and that the model produces"),
        (AllowedTokens([{1: [-2]}]), BadInput, "AllowedTokens, row 0, position 1: -2 is none of the model's tokens 0 to 4"),
        (AllowedTokens([{1: [2, 99]}]), BadInput, "row 0, position 1: 99 is none of"),
        (AllowedTokens([{1: "a"}]), BadInput, "row 0, position 1: 'a' is none of"),
        (AllowedTokens([{50: [1]}]), BadInput, "AllowedTokens, row 0: position 50 is none of its positions 0 to 2"),
        (AllowedTokens([{-1: [1]}]), BadInput, "row 0: position -1 is none of"),
        (AllowedTokens([]), BadInput, "AllowedTokens has 0 rows, and the batch 1: give one for each"),
        (AllowedTokens([{1: [2]}, {}]), BadInput, "AllowedTokens has 2 rows, and the batch 1"),
        (all_of([AllowedTokens([{1: [9]}])]), BadInput, "row 0, position 1: 9 is none of"),
    ],
)  # fmt: skip
def test_masks_that_cannot_be_used_are_refused(mask: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        anyorder.decode(HashDenoiser(), torch.tensor([[1, MASK, 2]]), "confidence", logits_mask=mask)


def test_lists_of_allowed_tokens_are_compared_with_the_batch_before_complete_rows_leave_it() -> None:
    tokens = torch.tensor([[1, 2, 3], [1, MASK, 2], [4, MASK, MASK]])
    allowed = AllowedTokens([{0: [1]}, {1: iter([3])}, {}])
    for sampler in ("confidence", Sampler("random", remasker="repredict", steps=4)):
        found = anyorder.decode(HashDenoiser(), tokens, sampler, logits_mask=allowed)
        assert found.tokens[1].tolist() == [1, 3, 2]
    padded = torch.tensor([[True] * 3, [True] * 3, [False, True, True]])
    with pytest.raises(BadInput, match="row 2: position 2 is none of its positions 0 to 1"):
        anyorder.decode(HashDenoiser(), tokens, "random", logits_mask=AllowedTokens([{}, {}, {2: [1]}]), attention_mask=padded)
    for rows in ([{1: 5}], [[1]], 5):
        with pytest.raises(BadInput, match=r"AllowedTokens lists token ids by position|rows is"):
            AllowedTokens(rows)  # type: ignore[arg-type]


def test_rules_and_automata_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(BadInput, match="leave top_p and top_k out"):
        Matching((automata(1),), Sample(top_k=2))
    with pytest.raises(BadInput, match=r"they must be \(S, V\) and \(S,\)"):
        Automaton(torch.zeros(2, 3, dtype=torch.int64), torch.ones(3, dtype=torch.bool))
    two = Matching((automata(1), automata(2)))
    with pytest.raises(BadInput, match="there are 2 patterns and 1 hole: give one for each"):
        anyorder.decode(HashDenoiser(), torch.tensor([[1, MASK, 2]]), Sampler("random", token=two))


# ---- holes ----------------------------------------------------------------------------------------------------------


def test_holes_stand_for_every_choice_of_their_lengths() -> None:
    assert lengths_of("The [MASK:5] jumps") == ["The _{5} jumps"]
    assert lengths_of("a [MASK] b") == ["a _{1} b"] and lengths_of("a _{3}") == ["a _{3}"]
    assert lengths_of("[MASK:1-2] and _{2-3}") == [
        f"_{{{a}}} and _{{{b}}}" for a, b in itertools.product((1, 2), (2, 3))
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a [MASK:0]", r"\[MASK:0\] is a hole of no length: write \[MASK:5\]"),
        ("a [MASK:0-3]", r"\[MASK:0-3\] is a hole of no length"),
        ("a [MASK:5-2]", r"\[MASK:5-2\] is a hole of no length"),
        ("a [MASK:five] b [MASK]", r"\[MASK:five\] is no hole"),
        ("a [MASK:] b", r"\[MASK:\] is no hole"),
        ("[MASK:1-20] [MASK:1-20]", "the holes allow 400 choices of lengths, and 256 are the most"),
    ],
)
def test_holes_of_no_length_are_refused(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        infill(anyorder.load_denoiser("wordnet", device="cpu"), ["a [MASK]", text])


@pytest.fixture(scope="module")
def wordnet() -> Any:
    return anyorder.load_denoiser("wordnet", device="cpu")


def test_the_length_of_a_hole_is_the_likeliest_per_token(wordnet: Any) -> None:
    text = "a [MASK:1-4] of the body"
    candidates = {n: infill(wordnet, f"a _{{{n}}} of the body") for n in range(1, 5)}
    task = anyorder.task_for(wordnet)
    scores = {}
    for n in candidates:
        tokens = task.encode([f"a _{{{n}}} of the body"]).tokens
        result = anyorder.decode(wordnet, tokens, "confidence")
        scores[n] = float(result.token_log_probs.sum()) / n
    best = max(scores, key=scores.__getitem__)
    assert infill(wordnet, text) == candidates[best]
    for batch_size in (1, 3):
        assert infill(wordnet, [text, "the [MASK:2]"], batch_size=batch_size) == [candidates[best], infill(wordnet, "the _{2}")]


def test_unknown_tokens_may_be_listed(wordnet: Any) -> None:
    found = infill(wordnet, "a[MASK:2] of the body", allowed=[[" part", " disease"], None])
    assert found.startswith(("a part", "a disease"))
    assert infill(wordnet, ["a[MASK] of the body"], allowed=[[[" disease"]]]) == ["a disease of the body"]
    for allowed, message in [
        ([["part"]], "with one entry for each unknown token, here 2"),
        ([["partition of the"], None], "'partition of the' is not one token of this model"),
        ([[], None], "lists no token"),
        ([None, None, None], "here 2"),
    ]:
        with pytest.raises(BadInput, match=message):
            infill(wordnet, "a[MASK:2] of the body", allowed=allowed)
    with pytest.raises(BadInput, match="holes of known length"):
        infill(wordnet, "a[MASK:1-2] of the body", allowed=[None])
    with pytest.raises(BadInput, match="allowed has 1 lists for 2 texts"):
        infill(wordnet, ["a[MASK]", "the[MASK]"], allowed=[[None]])


def test_a_function_says_what_may_stand_in_a_hole(wordnet: Any) -> None:
    task = anyorder.task_for(wordnet)
    vowels = torch.tensor([set(task.token_text(t).strip()[:1]) <= set("aeiou") for t in range(task.vocab_size)])
    with pytest.raises(BadInput, match="logits_mask is 3; it must be a function"):
        infill(wordnet, "the[MASK:3] body", logits_mask=3)  # type: ignore[arg-type]
    found = infill(wordnet, "the[MASK:3] body", logits_mask=lambda state, prediction: vowels.expand_as(prediction.logits))
    assert all(word[0] in "aeiou" for word in re.findall(r"\w+", found)[1:-1])


def test_without_the_library_one_sentence_says_so(wordnet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "interegular", None)
    with pytest.raises(BadInput, match=r"patterns are read by interegular: pip install 'anyorder\[grammar\]'"):
        infill(wordnet, "a [MASK:3]", pattern="[a-z]+")


# ---- patterns -------------------------------------------------------------------------------------------------------

PATTERNS = ["[0-9]+", "0+(-0+)?", "(ab|b)*c?", "a{2}b{1,3}", "x[^ab]*y", "-?(0|[1-9][0-9]*)"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_accepts_what_the_regular_expression_matches(pattern: str) -> None:
    pytest.importorskip("interegular", reason="interegular is not installed")
    automaton = automaton_of(pattern, CHARACTERS)
    for length in range(4):
        for letters in itertools.product("ab0x-cy", repeat=length):
            text = "".join(letters)
            assert accepts(automaton, CHARACTERS.encode(text)) == bool(re.fullmatch(pattern, text)), text
    longer = ["aabbb", "aab", "aabbbb", "x01y", "x0 1", "1234", "-120", "007"]
    assert [accepts(automaton, CHARACTERS.encode(text)) for text in longer] == [
        bool(re.fullmatch(pattern, text)) for text in longer
    ]


def test_tokens_of_several_letters_are_followed_and_parts_of_letters_are_not(tmp_path: Path) -> None:
    pytest.importorskip("interegular", reason="interegular is not installed")
    pytest.importorskip("transformers")
    from tiny_llada import MASK as LLADA_MASK
    from tiny_llada import save_tokenizer

    alphabet = TokenizerAlphabet(save_tokenizer(tmp_path), 272, LLADA_MASK)
    automaton = automaton_of("(a|é| )+x", alphabet)
    for text, right in {"a x": True, " x": True, "x": False, "aa": False, "e x": False, "éx": False}.items():
        assert accepts(automaton, alphabet.encode(text)) == right
    subwords = anyorder.task_for(anyorder.load_denoiser("wordnet", device="cpu")).symbols
    words = automaton_of("[a-z]+( [a-z]+)*", subwords)
    assert accepts(words, subwords.encode("part of the body")) and not accepts(words, subwords.encode("part 2"))


@pytest.mark.parametrize("sampler", ["confidence", "random@linear", "margin@threshold:0.5"])
def test_holes_match_their_patterns(wordnet: Any, sampler: str) -> None:
    pytest.importorskip("interegular", reason="interegular is not installed")
    text = "the [MASK:4] of [MASK:3]"
    for seed in range(2):
        how = Sampler.parse(sampler, steps=3, token=Sample(1.0))
        found = infill(wordnet, text, how, pattern=["[ a-e]+", " ?[0-9 ]+"], seed=seed)
        assert re.fullmatch(r"the ?[ a-e]+ of ?[0-9 ]+", found), found
    first = infill(wordnet, [text, "a [MASK:2]"], pattern="[ x-z]+")
    assert all(re.fullmatch(r"(the|a)[ x-z]+( of[ x-z]+)?", each) for each in first), first


def test_lengths_that_no_text_of_the_pattern_has_are_left_out(wordnet: Any) -> None:
    pytest.importorskip("interegular", reason="interegular is not installed")
    found = infill(wordnet, ["in[MASK:1-6]", "a[MASK:1-3] of"], pattern=" ?[0-9]{4}|[ a-c]+")
    assert re.fullmatch(r"in( ?[0-9]{4}|[ a-c]+)", found[0]) and re.fullmatch(r"a[ a-c]+ of", found[1])
    assert re.fullmatch(r"in ?[0-9]{4}", infill(wordnet, "in[MASK:1-6]", pattern=" ?[0-9]{4}"))
    with pytest.raises(BadInput, match="no text of the pattern has 1 token as row 0 asks from position 2 on"):
        infill(wordnet, "in[MASK:1-2]", pattern=" ?[0-9]{20}")


@given(st.integers(0, 10**6), st.integers(0, 4))
@settings(max_examples=40, deadline=None)
def test_the_lengths_that_fit_are_those_of_enumeration(seed: int, length: int) -> None:
    automaton = automata(seed)
    assert automaton.fits(length) == bool(texts_of(automaton, [-1] * length))


def test_patterns_of_too_many_states_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("interegular", reason="interegular is not installed")
    monkeypatch.setattr("anyorder.interfaces.patterns._MOST", 99 * 10)
    with pytest.raises(BadInput, match="has 12 states, too many for 99 tokens: simplify it"):
        automaton_of("a{1,11}", CHARACTERS)


def test_patterns_that_cannot_be_used_are_refused(wordnet: Any, tmp_path: Path) -> None:
    pytest.importorskip("interegular", reason="interegular is not installed")
    for pattern, message in [
        ("(a", r"the pattern '\(a' cannot be read"),
        ("", "pattern is ''; it must be a regular expression"),
        ("é+", "no text of the pattern has 2 tokens"),
        ("[a-z]{40}", "no text of the pattern has 2 tokens"),
        (["a", "b"], "there are 2 patterns and 1 hole"),
    ]:
        with pytest.raises(BadInput, match=message):
            infill(wordnet, "a [MASK:2]", pattern=pattern)
    pytest.importorskip("transformers")
    from test_huggingface_loading import save_bert

    bert = anyorder.load_denoiser(save_bert(tmp_path / "bert"), device="cpu")
    with pytest.raises(BadInput, match="this one splits text at its spaces"):
        infill(bert, "a [MASK]", pattern="[a-z]+")
