"""`LanguageModel` and `anyorder generate`: text in, text out, with drafts in a terminal."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import anyorder
from anyorder.cli.drafts import Draft
from anyorder.decoding.result import History
from anyorder.errors import BadInput
from anyorder.interfaces.language import LanguageModel
from commands import refused, run
from tiny_llada import END, TURN_END, save_llada

pytest.importorskip("transformers")

SUMS = ["What is 48215 + 90377?", "What is 482 + 903?", "What is 1204 + 99?"]


@pytest.fixture(scope="module")
def llada(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llada(tmp_path_factory.mktemp("model") / "llada")


@pytest.fixture(scope="module")
def words() -> Any:
    return anyorder.load_denoiser("words", device="cpu")


@pytest.fixture(scope="module")
def chatty(llada: Path) -> LanguageModel:
    return LanguageModel(anyorder.load_denoiser(llada, device="cpu", trust_remote_code=True), "random@linear")


def test_a_shipped_model_adds_and_is_asked_as_it_was_taught(words: Any) -> None:
    model = LanguageModel(words)
    assert model.generate([model.prompt(SUMS[0])])[0].text == "138592"
    plain = LanguageModel(words, chat=False)
    assert plain.prompt(f"{SUMS[0]}\nAnswer:\n") == model.prompt(SUMS[0])
    assert model.usual_length == 40


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_a_batch_answers_as_each_alone(chatty: LanguageModel, batch_size: int) -> None:
    prompts = [chatty.prompt(text) for text in ("Hi", "What is this?", "A longer question than the others.")]
    together = chatty.generate(prompts, 12, seeds=5, batch_size=batch_size)
    alone = [chatty.generate([prompt], 12, seeds=5 + number)[0] for number, prompt in enumerate(prompts)]
    assert together == alone and len({answer.text for answer in alone}) > 1


def test_chat_templates_take_system_prompts_and_turns(chatty: LanguageModel) -> None:
    tokens = chatty.prompt("Why?", system="Be short.")
    text = chatty.format.tokenizer.decode(tokens)
    assert text.startswith("<|startoftext|><|start_header_id|>system<|end_header_id|>\n\nBe short.<|eot_id|>")
    assert text.endswith("Why?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n")
    turns = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Why?"}]
    assert chatty.prompt(turns) == tokens
    assert chatty.format.ends == {END, TURN_END} and chatty.format.pad_token_id not in chatty.format.ends


def test_prompts_that_cannot_be_asked_are_refused(words: Any, chatty: LanguageModel) -> None:
    model = LanguageModel(words)
    for text in ("", "  \n", []):
        with pytest.raises(BadInput, match="the prompt is empty"):
            model.prompt(text)
    with pytest.raises(BadInput, match="words has no chat template in use"):
        model.prompt("What?", system="Be short.")
    with pytest.raises(BadInput, match="holds the mask token: use"):
        model.prompt("a_b")
    with pytest.raises(BadInput, match="takes 256 tokens at most; the prompt and new tokens are 350: shorten"):
        model.generate([model.prompt("x" * 300)])
    with pytest.raises(BadInput, match="load the model with"):
        LanguageModel("words")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="sudoku4 is a model for sudoku, not for text"):
        LanguageModel(anyorder.load_denoiser("sudoku4"))
    with pytest.raises(BadInput, match="chat template cannot be used"):
        chatty.prompt([{"role": "user"}])
    for seeds in ("7", torch.tensor([1, 2])):
        with pytest.raises(BadInput, match=r"seeds are .*; they must be a whole number"):
            model.generate([model.prompt("What?")], seeds=seeds)  # type: ignore[arg-type]
    assert model.generate([]) == []


def test_the_draft_shows_tokens_where_they_are_committed(words: Any) -> None:
    model = LanguageModel(words, "random")
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=60, highlight=False)
    draft = Draft(model.format, console, shown=True)
    texts: list[str] = []
    with draft:
        watched = [draft, lambda output: texts.append(draft.text_of(output).plain)]
        (answer,) = model.generate([model.prompt(SUMS[1])], on_step=watched)
    assert texts[-1] == answer.text == "1385"
    assert "_" in texts[0] and len(texts) == answer.nfe
    assert texts[0].strip("_") == "" or len(texts[0].strip("_")) == 1, "one token after one step"
    assert "\x1b[1;32m" in screen.getvalue() and "_" in screen.getvalue()
    hidden = io.StringIO()
    with Draft(model.format, Console(file=hidden), shown=False) as silent:
        model.generate([model.prompt(SUMS[1])], on_step=silent)
    assert hidden.getvalue() == ""


def test_the_command_prints_the_answer_without_escapes() -> None:
    done = run("generate", SUMS[0], "--model-option", "device=cpu")
    assert (done.returncode, done.stdout) == (0, "138592\n")
    assert done.stderr == "6 tokens before the end; 20 forward passes\n"


def test_the_newline_behind_a_piped_prompt_is_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(SUMS[0] + "\n"))
    assert run("generate", "-", "--model-option", "device=cpu").stdout == "138592\n"


def test_a_short_model_is_not_asked_for_more_than_it_takes() -> None:
    wordnet = LanguageModel(anyorder.load_denoiser("wordnet", device="cpu"))
    assert (wordnet.room, wordnet.usual_length) == (38, 19)
    (answer,) = wordnet.generate([wordnet.prompt("a part of")])
    assert 0 < len(answer.tokens) <= 19


def test_the_command_decodes_as_its_options_say(llada: Path) -> None:
    common = (
        "generate",
        "Why?",
        "--model",
        llada,
        "--trust-remote-code",
        "--model-option",
        "device=cpu",
        "--max-new-tokens",
        "16",
    )
    spelled = run(*common, "--order", "margin@blocks:8", "--steps", "8", "--temperature", "0.7", "--top-k", "5", "--seed", "3")
    options = run(*common, "--order", "margin", "--block-length", "8", "--steps", "8", "--temperature", "0.7", "--top-k", "5",
                  "--seed", "3")  # fmt: skip
    assert spelled.returncode == options.returncode == 0, spelled.stderr
    assert spelled.stdout == options.stdout
    other = run(*common, "--order", "margin", "--block-length", "8", "--steps", "8", "--temperature", "0.7", "--seed", "4")
    assert other.stdout != options.stdout
    plain = run(*common, "--no-chat", "--steps", "8")
    assert plain.returncode == 0 and plain.stdout != run(*common, "--steps", "8").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((" ",), "the prompt is empty"),
        (("hi", "--model", "nosuch"), "no denoiser called 'nosuch'"),
        (("hi", "--model", "sudoku4"), "sudoku4 is a model for sudoku, not for text"),
        (("What is é?",), "'é' at position 9 is not one of the symbols of this model"),
        (("hi", "--cache", "dual"), "a cache keeps what is outside of the block"),
        (("hi", "--block-length", "8", "--cache", "dual", "--refresh", "often"), "refresh is 'often'"),
        (("hi", "--steps", "2", "--block-length", "4"), "steps 2 are too few for 10 blocks of 4"),
        (("hi", "--steps", "2,3"), "this command takes one budget"),
        (("hi", "--top-k", "3"), "--top-k has no meaning without a --temperature above 0"),
        (("hi", "--noise", "0,1"), "this command takes one scale"),
        (("hi", "--order", "nosuch"), "order 'nosuch' is unknown"),
        (("hi", "--eos-penalty", "inf", "--model", "wordnet", "--max-new-tokens", "60"), "takes 38 tokens at most"),
    ],
)
def test_bad_input_is_one_clear_error(words: tuple[str, ...], message: str) -> None:
    refused(run("generate", *words), message)


def test_a_model_without_a_mask_token_says_so(tmp_path: Path) -> None:
    folder = save_llada(tmp_path / "model")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"mask_token_id": 263', '"mask_token_id": null'))
    refused(run("generate", "hi", "--model", folder, "--trust-remote-code"), "names no mask token: give mask_token_id")


def test_steps_can_be_watched_in_python(words: Any) -> None:
    model = LanguageModel(words)
    prompt = model.prompt(SUMS[2])
    history = History(torch.tensor([[*prompt, *[words.mask_token_id] * 40]]))
    (answer,) = model.generate([prompt], on_step=history)
    assert len(history.tokens) == answer.nfe + 1
    assert model.format.until_end(history.tokens[-1][0, len(prompt) :].tolist()) == answer.tokens


def test_a_text_with_holes_is_filled() -> None:
    done = run("generate", "a[MASK:1-3] of the body", "--model", "wordnet", "--model-option", "device=cpu")
    expected = anyorder.infill(anyorder.load_denoiser("wordnet", device="cpu"), "a[MASK:1-3] of the body", steps=20)
    assert (done.returncode, done.stdout) == (0, f"{expected}\n")
    refused(run("generate", "a [MASK:0]", "--model", "wordnet"), "[MASK:0] is a hole of no length")
    refused(run("generate", "a [MASK]", "--model", "wordnet", "--system", "x"), "leave --system out")


def test_no_hole_holds_an_end_of_the_text(chatty: LanguageModel) -> None:
    assert not set(chatty.format.ends) & set(chatty.denoiser.forbidden)
    filled = chatty.fill("Why [MASK:40]?", seed=1)
    assert len(filled.encode()) >= 30, "an end is no text"


def test_an_answer_matches_its_pattern(words: Any, chatty: LanguageModel) -> None:
    pytest.importorskip("interegular", reason="interegular is not installed")
    model = LanguageModel(words, "random")
    prompt = model.prompt(SUMS[0])
    assert re.fullmatch("[0-8]{5,6}", model.generate([prompt], pattern="[0-8]{5,6}")[0].text)
    assert model.generate([prompt], pattern="[0-9]+")[0].text == "138592", "what the model would say itself"
    for answer in chatty.generate([chatty.prompt("Hi"), chatty.prompt("A longer one")], 20, pattern="yes|no|maybe"):
        assert answer.text in ("yes", "no", "maybe")
    refused(run("generate", SUMS[0], "--pattern", "[0-9]{50}"), "no text of the pattern has 40 tokens")
    refused(run("generate", SUMS[0], "--pattern", "("), "the pattern '(' cannot be read")
