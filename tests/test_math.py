"""GSM8K and MATH-500 for language models: prompts, layout, judgement, and the command line on a tiny LLaDA."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from typer.testing import CliRunner

from anyorder.cli import app
from anyorder.decoding.loop import decode
from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.ends import Ends
from anyorder.errors import BadInput
from anyorder.evaluation.batches import decode_in_batches
from anyorder.tasks import make_task
from anyorder.tasks.base import Instances
from anyorder.tasks.math import Math
from anyorder.tasks.math_prompts import TEMPLATES, Problem, read_problems, reasoning_of
from anyorder.tasks.tokenizer_alphabet import TokenizerAlphabet
from anyorder.zoo.matching import task_for
from conftest import shared_file
from tiny_llada import CLS, END, MASK, START, TURN_END, save_llada, save_tokenizer

transformers = pytest.importorskip("transformers")
pytest.importorskip("math_verify")

NONSENSE = ord("~") - ord("!")
HENS = Problem("How many eggs do 6 hens lay in 7 days?", "42", "6*7=<<6*7=42>>42 eggs\n#### 42")
HALF = Problem("What is half of $\\{1\\}$?", "\\frac{1}{2}", "It is $\\boxed{\\frac{1}{2}}$.", "3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llada(tmp_path_factory.mktemp("models") / "llada")


@pytest.fixture
def denoiser(folder: Path) -> HuggingFaceDenoiser:
    return HuggingFaceDenoiser.from_pretrained(folder, trust_remote_code=True)


@pytest.fixture(scope="module")
def alphabet(tmp_path_factory: pytest.TempPathFactory) -> TokenizerAlphabet:
    return TokenizerAlphabet(save_tokenizer(tmp_path_factory.mktemp("tokenizer")), 272, MASK)


def math(alphabet: TokenizerAlphabet | str, **options: Any) -> Math:
    task = make_task("math", alphabet=alphabet, **options)
    assert isinstance(task, Math)
    return task


def prompt_of(task: Math, instances: Instances, row: int = 0) -> str:
    given = instances.tokens[row][~instances.maskable[row] & (instances.tokens[row] != task.pad_token_id)]
    return str(task.symbols.tokenizer.decode(given.tolist()))


def filled(task: Math, instances: Instances, texts: list[str], end: int | None = END) -> Tensor:
    """Instances with these answers, ended, and nonsense after the end."""
    tokens = instances.tokens.clone()
    for row, generated, text in zip(tokens, instances.maskable, texts, strict=True):
        answer = [*task.symbols.tokenizer(text, add_special_tokens=False)["input_ids"], *([] if end is None else [end])]
        assert len(answer) <= task.answer_length
        row[generated] = torch.tensor([*answer, *[NONSENSE] * (task.answer_length - len(answer))])
    return tokens


# ---- prompts ------------------------------------------------------------------------------------------------------------


def test_upo_asks_in_the_words_of_its_appendix(alphabet: TokenizerAlphabet) -> None:
    task = math(alphabet)
    assert prompt_of(task, task.encode([HENS])) == (
        "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\n"
        "You are a math expert. You will be given a question to solve. Solve it step by step. Wrap the final answer in a "
        "\\boxed{}.\nRespond in the following format:\n<reasoning>\nYour reasoning here\n</reasoning>\n<answer>\n\\boxed{...}\n"
        "</answer>\n\nHow many eggs do 6 hens lay in 7 days?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n<reasoning>\n"
    )


def test_a_plain_question_and_no_chat(alphabet: TokenizerAlphabet) -> None:
    task = math(alphabet, prompt="plain", chat=0)
    assert prompt_of(task, task.encode([HENS])) == HENS.question
    assert math(alphabet, prompt="plain").encode([HENS]).tokens[0, 0] == START
    assert task.ends == {END}
    assert math(alphabet).ends == {END, TURN_END}, "in a chat the end of the turn ends the answer"


@pytest.mark.parametrize("prompt", TEMPLATES)
def test_examples_speak_the_template_s_own_format(alphabet: TokenizerAlphabet, prompt: str, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    rows = [
        {"question": f"What is {n} and {n}?", "answer": f"<<{n}+{n}={2 * n}>>{2 * n} it is.\n#### {2 * n}"} for n in range(9)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    task = math(alphabet, prompt=prompt, shots=8, examples=str(path), chat=0)
    text = prompt_of(task, task.encode([HENS]))
    assert [text.count(f"What is {n} and {n}?") for n in range(9)] == [1] * 8 + [0]
    told = {
        "upo": "<reasoning>\n14 it is.\n</reasoning>\n<answer>\n\\boxed{14}\n</answer>\n\nHow many",
        "plain": "<<7+7=14>>14 it is.\n#### 14\n\nHow many",
        "lm_eval": "Question: What is 7 and 7?\nAnswer: <<7+7=14>>14 it is.\n#### 14\n\nQuestion: How many",
        "minerva": "Final Answer: The final answer is $14$. I hope it is correct.\n\nProblem:\nHow many",
    }
    assert told[prompt] in text
    assert text.endswith(TEMPLATES[prompt].start or {"plain": "7 days?", "lm_eval": "Answer:", "minerva": "Solution:"}[prompt])
    with pytest.raises(BadInput, match=r"problem 1: it is among the examples"):
        task.load(path)


def test_examples_that_are_no_examples_are_refused(alphabet: TokenizerAlphabet, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"question": "1?", "answer": "#### 1"}))
    with pytest.raises(BadInput, match="give both, a number and a file"):
        math(alphabet, shots=2)
    with pytest.raises(BadInput, match="give both, a number and a file"):
        math(alphabet, examples=str(path))
    with pytest.raises(BadInput, match="holds 1 problems; shots asks for 2"):
        math(alphabet, shots=2, examples=str(path))
    with pytest.raises(BadInput, match="no such file"):
        math(alphabet, shots=2, examples=str(tmp_path / "none"))


def test_a_solution_without_the_calculator_s_marks() -> None:
    assert reasoning_of(HENS.solution) == "6*7=42 eggs"


def test_a_chat_template_that_fails_is_one_clear_error(tmp_path: Path) -> None:
    tokenizer = save_tokenizer(tmp_path)
    tokenizer.chat_template = "{{ raise_exception('only system prompts') }}"
    with pytest.raises(BadInput, match="only system prompts; chat=0 leaves it out"):
        math(TokenizerAlphabet(tokenizer, 272, MASK))


# ---- layout -------------------------------------------------------------------------------------------------------------


def test_the_answer_follows_the_prompt_and_padding_follows_the_answer(alphabet: TokenizerAlphabet) -> None:
    task = math(alphabet, prompt="plain", chat=False, length=16)
    both = task.encode([HENS, HALF])
    lengths = [len(HENS.question), len(HALF.question)]
    assert both.tokens.shape == (2, max(lengths) + 16)
    assert task.pad_token_id not in {task.symbols.tokenizer.pad_token_id, MASK}, "the tokenizer's own is the end of text"
    for row, length in enumerate(lengths):
        place = torch.arange(both.tokens.shape[1])
        assert torch.equal(both.maskable[row], (place >= length) & (place < length + 16))
        assert (both.tokens[row][length + 16 :] == task.pad_token_id).all()
    assert both.x0 is None
    assert both[1:].labels["answer"].tolist() == ["\\frac{1}{2}"]


def test_a_prompt_that_does_not_fit_is_refused(alphabet: TokenizerAlphabet) -> None:
    with pytest.raises(BadInput, match="this question: the prompt takes 38 tokens and the answer 16, more than the 50"):
        math(alphabet, prompt="plain", chat=0, length=16, longest=50).parse(HENS.question)
    with pytest.raises(BadInput, match="holds the mask token itself"):
        math(alphabet).parse("What is <|mdm_mask|>?")
    with pytest.raises(BadInput, match=r"length 0 must lie in 1\.\.4096"):
        math(alphabet, length=0)
    with pytest.raises(BadInput, match="use one of upo, plain, lm_eval, minerva"):
        math(alphabet, prompt="cot")
    with pytest.raises(BadInput, match="needs the tokenizer of a model"):
        make_task("math")
    with pytest.raises(BadInput, match="is not the tokenizer of a model"):
        math("characters")
    with pytest.raises(BadInput, match=r"give a file of problems \(--data\)"):
        math(alphabet).generate(3, 0)


def test_other_tokenizers_keep_their_own_padding(tmp_path: Path) -> None:
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *(chr(code) for code in range(33, 127)),
        *(f"##{n}" for n in range(10)),
    ]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizer(str(tmp_path / "vocab.txt"), do_lower_case=False)
    task = math(TokenizerAlphabet(tokenizer, len(words), 4), prompt="plain", length=8)
    instances = task.parse("1 + 1 #### 2")
    assert task.pad_token_id == 0
    assert instances.tokens[0, :2].tolist() == [2, words.index("1")], "it begins as the tokenizer begins every text"
    answer = torch.tensor([words.index(letter) for letter in "2======2"])
    assert bool(task.check(instances, instances.tokens.masked_scatter(instances.maskable, answer)).instance_correct)


# ---- files --------------------------------------------------------------------------------------------------------------


def test_the_published_files_are_read(alphabet: TokenizerAlphabet) -> None:
    task = math(alphabet)
    gsm8k = task.load(shared_file("math/gsm8k_test.jsonl"))
    assert (len(gsm8k), gsm8k.labels["answer"][0]) == (1319, "18")
    math500 = task.load(shared_file("math/math500_test.json"), limit=20)
    assert math500.labels["answer"][0] == "\\left( 3, \\frac{\\pi}{2} \\right)"
    assert set(math500.labels["difficulty"]) <= {f"level {n}" for n in range(1, 6)}
    assert (gsm8k.maskable.sum(dim=1) == 128).all()


def test_files_may_be_lists_and_name_their_answers(tmp_path: Path) -> None:
    rows = [
        {"problem": "1?", "solution": "It is one.", "answer": "1", "level": 2},
        {"question": "2?", "answer": "Two.\n#### 2"},
    ]
    path = tmp_path / "some.json"
    path.write_text(json.dumps(rows))
    assert [problem.answer for problem in read_problems(path)] == ["1", "2"]
    assert read_problems(path, limit=1)[0].level == "2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"question": "1?"}', 'line 1: expected a text "question" and an "answer"'),
        ('{"question": "1?", "answer": "one"}', "line 1: the solution gives no answer"),
        ('[{"question": "1?", "answer": "one"}]', "row 1: the solution gives no answer"),
        ("[1]", "row 1: expected an object"),
        ("[1", "is not readable JSON"),
        ("{", "line 1"),
        ("", "holds no problems"),
        ("[]", "holds no problems"),
    ],
)
def test_files_that_cannot_be_used_say_where(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(BadInput, match=message):
        read_problems(path)


# ---- checking -----------------------------------------------------------------------------------------------------------


def test_the_final_answer_decides(alphabet: TokenizerAlphabet) -> None:
    task = math(alphabet, length=48)
    problems = task.encode([HENS] * 5 + [HALF])
    texts = [
        "6 and 7\n<answer>\\boxed{42}</answer>",
        "It is $42.00, as",
        "\\boxed{41}, not 42",
        "",
        "I know",
        "half, \\boxed{50\\%}",
    ]
    tokens = filled(task, problems, texts)
    verdict = task.check(problems, tokens)
    assert verdict.instance_correct.tolist() == [True, True, False, False, False, True]
    assert verdict.cell_accuracy.isnan().all()
    measures = task.measure(problems, tokens)
    assert measures["answered"].tolist() == [1, 1, 1, 0, 0, 1]
    assert measures["marked"].tolist() == [1, 0, 1, 0, 0, 1]
    assert measures["tokens"].tolist() == [len(text) for text in texts]
    assert task.texts(problems, tokens) == texts
    assert task.format(tokens[2]).endswith("<reasoning>\n\\boxed{41}, not 42" + "~" * 29)


def test_no_answer_without_all_its_tokens_or_with_another_prompt(alphabet: TokenizerAlphabet) -> None:
    task = math(alphabet, length=16)
    problem = task.encode([HENS])
    tokens = filled(task, problem, ["\\boxed{42}"])
    assert bool(task.check(problem, tokens).instance_correct)
    cheat = tokens.clone()
    cheat[0, 60] += 1
    assert not bool(task.check(problem, cheat).instance_correct)
    unfinished = tokens.clone()
    unfinished[0, int(problem.maskable[0].nonzero()[-1])] = MASK
    assert not bool(task.check(problem, unfinished).instance_correct)


def test_what_a_model_asks_itself_after_its_answer_does_not_count(alphabet: TokenizerAlphabet) -> None:
    task = math(alphabet, prompt="lm_eval", chat=0, length=48)
    problem = task.encode([HENS])
    tokens = filled(task, problem, [" It is\n#### 42\n\nQuestion: And 2?\nAnswer: #### 2"], end=None)
    assert bool(task.check(problem, tokens).instance_correct)


def test_a_typed_question_without_a_reference_wants_an_answer(alphabet: TokenizerAlphabet) -> None:
    task = math(alphabet, length=16)
    open_question, known = task.parse("Six times seven?"), task.parse("Six times seven? #### 42")
    assert known.labels["answer"].tolist() == ["42"]
    assert torch.equal(open_question.tokens, known.tokens), "the reference is not a part of the prompt"
    for text, right in (("\\boxed{41}", [True, False]), ("no idea", [False, False])):
        found = [bool(task.check(p, filled(task, p, [text])).instance_correct) for p in (open_question, known)]
        assert found == right


# ---- a model ------------------------------------------------------------------------------------------------------------


def test_a_model_may_end_its_answers_and_never_sees_padding(folder: Path, denoiser: HuggingFaceDenoiser) -> None:
    assert {END, CLS} <= set(denoiser.forbidden)
    task = task_for(denoiser, "math", length=12, prompt="plain")
    assert isinstance(task, Math)
    assert {END, TURN_END} & set(denoiser.forbidden) == set()
    assert {MASK, CLS} <= set(denoiser.forbidden)
    assert denoiser.pad_token_id == task.pad_token_id == CLS
    problems = task.encode([HENS, HALF, Problem("1?", "1", "")])
    sampler = Sampler.parse("confidence@blocks:4", steps=6)
    together = decode_in_batches(denoiser, problems, sampler, seed=0, batch_size=3, progress=None, name="")
    alone = decode_in_batches(denoiser, problems, sampler, seed=0, batch_size=1, progress=None, name="")
    assert torch.equal(together.tokens, alone.tokens)
    assert ((together.tokens == problems.tokens) | problems.maskable).all()
    steps = together.commit_step[problems.maskable].view(3, 3, 4)
    assert (steps[:, :-1].amax(dim=2) < steps[:, 1:].amin(dim=2)).all(), "block after block"


def test_blocks_are_those_of_llada_s_generate(folder: Path, denoiser: HuggingFaceDenoiser) -> None:
    from anyorder.interfaces.llada import generate

    task = task_for(denoiser, "math", length=16, prompt="plain")
    problem = task.parse("What is 6 times 7?")
    ours = decode(denoiser, problem.tokens, Sampler.parse("confidence@blocks:8", steps=8)).tokens
    prompt = problem.tokens[:, ~problem.maskable[0]]
    assert torch.equal(ours, generate(denoiser, prompt, None, 8, 16, 8))


def test_a_model_without_tokenizer_is_refused(folder: Path, denoiser: HuggingFaceDenoiser) -> None:
    denoiser.tokenizer = None
    with pytest.raises(BadInput, match="has no tokenizer, and math needs one"):
        task_for(denoiser, "math")


def test_evaluate_and_sample_from_the_command_line(folder: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "problems.jsonl", tmp_path / "report.json"
    rows = [{"question": HENS.question, "answer": HENS.solution}, {"problem": HALF.question, "solution": HALF.solution}]
    data.write_text("\n".join(map(json.dumps, rows)))
    model = ["--task", "math", "--model", str(folder), "--trust-remote-code", "--task-option", "length=16"]
    orders = "confidence,confidence@blocks:8,left_to_right@blocks:8@threshold:0.5"
    result = CliRunner().invoke(
        app, ["evaluate", *model, "--data", str(data), "--orders", orders, "--steps", "8,16", "--json", str(out)]
    )
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    assert [row["order"] for row in report["results"]] == orders.split(",") * 2
    assert report["meta"]["correct_means"] == "right"
    assert all(
        row["cell_accuracy"] is None and {"answered", "marked", "tokens"} == row["measures"].keys() for row in report["results"]
    )
    sample = CliRunner().invoke(app, ["sample", "What is 6 times 7? #### 42", *model, "--steps", "4"])
    assert sample.exit_code == 1
    assert "right: 0 of 1" in sample.output


# ---- the end of an answer -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ending(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, which ends its answers where it would have written one of its favorite tokens."""
    copy = shutil.copytree(folder, tmp_path_factory.mktemp("models") / "ending")
    denoiser = HuggingFaceDenoiser.from_pretrained(folder, trust_remote_code=True)
    task = task_for(denoiser, "math", length=16, prompt="plain")
    said = decode(denoiser, task.encode([HENS, HALF]).tokens, Sampler("confidence")).tokens  # type: ignore[attr-defined]
    weights = safetensors.torch.load_file(copy / "model.safetensors")
    favorites = said[:, -16:].flatten().bincount(minlength=272).topk(4).indices
    weights["model.ff_out.weight"][END] = 1.2 * weights["model.ff_out.weight"][favorites].sum(dim=0)
    safetensors.torch.save_file(weights, copy / "model.safetensors", {"format": "pt"})
    return copy


def test_an_answer_stops_at_its_end_and_says_the_same(ending: Path) -> None:
    denoiser = HuggingFaceDenoiser.from_pretrained(ending, trust_remote_code=True)
    task = task_for(denoiser, "math", length=16, prompt="plain")
    assert isinstance(task, Math) and task.stops_at == Ends(tuple(sorted(task.ends)), task.pad_token_id)
    problems = task.encode([HENS, HALF, Problem("1?", "1", "")])
    for spelled in ("left_to_right", "confidence@blocks:4", "confidence@threshold:0.2"):
        sampler = Sampler.parse(spelled, steps=16)
        how: dict[str, Any] = {"seed": 0, "batch_size": 2, "progress": None, "name": ""}
        every = decode_in_batches(denoiser, problems, sampler, **how)
        cut = decode_in_batches(denoiser, problems, sampler, **how, ends=task.stops_at)
        assert task.texts(problems, cut.tokens) == task.texts(problems, every.tokens)
        assert {k: v.tolist() for k, v in task.measure(problems, cut.tokens).items()} == {
            k: v.tolist() for k, v in task.measure(problems, every.tokens).items()
        }
        assert (cut.nfe <= every.nfe).all() and cut.nfe.sum() < every.nfe.sum(), spelled
        assert bool((cut.tokens != MASK).all())


def test_sample_and_evaluate_stop_at_the_end_of_an_answer(ending: Path, tmp_path: Path) -> None:
    model = ["--task", "math", "--model", str(ending), "--trust-remote-code", "--task-option", "length=16"]
    question = "What is 6 times 7? #### 42"
    watched = tmp_path / "watched.json"
    sampled = [
        CliRunner().invoke(app, ["sample", question, *model, "--steps", "16", "--order", "left_to_right", *more])
        for more in ([], ["--trajectories", str(watched)], ["--eos-penalty", "inf"])
    ]
    passes = [float(re.findall(r"([0-9.]+) forward passes", result.output)[0]) for result in sampled]
    assert passes[0] == passes[1] < 16, [result.output for result in sampled]
    assert passes[2] >= passes[0]
    run = json.loads(watched.read_text())["runs"][0]["decodes"][0]
    assert len(run["steps"]) == run["nfe"] == passes[1], "the padding behind the end is shown as put in the last step"
    data, out = tmp_path / "problems.jsonl", tmp_path / "report.json"
    data.write_text(json.dumps({"question": HENS.question, "answer": HENS.solution}))
    evaluated = ["evaluate", *model, "--data", str(data), "--orders", "confidence", "--steps", "16", "--json", str(out)]
    assert CliRunner().invoke(app, evaluated).exit_code == 0
    early = json.loads(out.read_text())["results"][0]
    assert CliRunner().invoke(app, [*evaluated, "--eos-penalty", "inf"]).exit_code == 0
    late = json.loads(out.read_text())["results"][0]
    assert early["nfe"] < 16 and early["nfe"] < late["nfe"]
    assert late["kind"] == early["kind"] == "heuristic" and late["order"] == "confidence"


def test_sample_refuses_budgets_that_blocks_do_not_fit_into_and_penalties_without_ends(folder: Path) -> None:
    model = ["--task", "math", "--model", str(folder), "--trust-remote-code", "--task-option", "length=16", "--steps", "2"]
    for order in ("confidence@blocks:4", "left_to_right@blocks:4@threshold:0.9"):
        short = CliRunner().invoke(app, ["sample", "6?", *model, "--order", order])
        assert "steps 2 are too few for 4 blocks of 4, in which 16 positions are to be filled" in str(short.exception)
    puzzle = ["sample", "1" + "0" * 15, "--task-option", "box=2"]
    endless = CliRunner().invoke(app, [*puzzle, "--eos-penalty", "1"])
    assert "--eos-penalty is for texts that end by a token, and sudoku has none" in str(endless.exception)
    hot = CliRunner().invoke(app, [*puzzle, "--temperature", "inf"])
    assert "temperature is inf; it must be a finite number" in str(hot.exception)
