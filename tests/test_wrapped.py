"""Modules of one's own as denoisers: what they may return, padding, saving, and loading by class."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import anyorder
from anyorder.cli import app
from anyorder.denoisers.base import Denoiser, DenoiserOutput
from anyorder.denoisers.classes import make_denoiser, read_denoiser, save_denoiser
from anyorder.denoisers.wrapped import WrappedDenoiser
from anyorder.errors import BadCheckpoint, BadInput
from anyorder.orders.policies import LookaheadPolicy
from anyorder.zoo import load_denoiser

WORDS, MASK, PAD = 7, 6, 5

MODULE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, words, width=8):
        super().__init__()
        self.words, self.width = words, width
        self.embed = nn.Embedding(words, width)
        self.out = nn.Linear(width, words, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        return self.out(x + x.cumsum(1).tanh() + x.mean(1, keepdim=True))


class Complete(Net):
    def __init__(self, vocab_size, mask_token_id, width=8):
        super().__init__(vocab_size, width)
        self.vocab_size, self.mask_token_id, self.hidden_size = vocab_size, mask_token_id, vocab_size

    def forward(self, tokens, attention_mask=None, positions=None):
        logits = super().forward(tokens).index_fill(-1, torch.tensor([self.mask_token_id]), -torch.inf)
        return logits if positions is None else logits[positions], logits
"""


class Attending(nn.Module):
    """Attention over all real tokens, places counted from the left end; it needs the mask."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.places = nn.Embedding(WORDS, 8), nn.Embedding(32, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.out = nn.Linear(8, WORDS)

    def hidden(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        assert attention_mask.dtype == torch.bool
        x: Tensor = self.embed(tokens) + self.places(torch.arange(tokens.shape[1]))
        return x + self.attention(x, x, x, key_padding_mask=~attention_mask, need_weights=False)[0]

    def forward(self, tokens: Tensor, attention_mask: Tensor) -> Any:
        x = self.hidden(tokens, attention_mask)
        return SimpleNamespace(logits=self.out(x), hidden_states=(x - 1, x))


class Averaging(nn.Module):
    """Any token counts, padding too if it is there; it takes no mask."""

    def __init__(self, form: str = "plain") -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embed, self.out, self.form = nn.Embedding(WORDS, 8), nn.Linear(8, WORDS), form

    def forward(self, tokens: Tensor, scale: float = 1.0) -> Any:
        x = self.embed(tokens) * scale
        x = x + x.mean(dim=1, keepdim=True) + x.cumsum(dim=1)
        logits = self.out(x)
        forms = {
            "plain": logits, "one": (logits,), "two": (logits, x), "named": SimpleNamespace(logits=logits),
            "last": SimpleNamespace(logits=logits, last_hidden_state=x), "dict": {"logits": logits}, "words": logits[..., 1:],
            "ours": DenoiserOutput(logits, x), "ours without": DenoiserOutput(logits, None),  # type: ignore[arg-type]
            "tensor": SimpleNamespace(logits=logits, hidden_states=x),
            "none": SimpleNamespace(logits=logits, hidden_states=(), last_hidden_state=x),
        }  # fmt: skip
        return forms[self.form]


@pytest.mark.parametrize(
    ("form", "size"),
    [
        ("plain", None), ("one", None), ("named", None), ("two", 8), ("last", 8),
        ("ours", 8), ("ours without", None), ("tensor", 8), ("none", 8),
    ],
)  # fmt: skip
def test_a_module_may_return_logits_in_many_forms(form: str, size: int | None) -> None:
    denoiser = WrappedDenoiser(Averaging(form), MASK, WORDS, size)
    tokens = torch.tensor([[0, MASK, MASK]])
    out = denoiser(tokens, None, tokens == MASK)
    assert out.logits.shape == (2, WORDS)
    assert (out.logits[:, MASK] == -torch.inf).all()
    assert out.hidden.shape == (1, 3, size or WORDS)
    assert isinstance(denoiser, Denoiser)


@pytest.mark.parametrize("pad", [-1, WORDS])
@pytest.mark.parametrize("drawn", [False, True])
def test_a_policy_that_looks_tokens_up_does_not_look_padding_up(pad: int, drawn: bool) -> None:
    """Padding need be none of the vocabulary: a module without an attention mask never sees it."""
    torch.manual_seed(0)
    policy = LookaheadPolicy(hidden_size=WORDS, vocab_size=WORDS, width=8, layers=1, heads=("everything",) * 2, drawn=drawn)
    nn.init.normal_(policy.out.weight)
    sampler = anyorder.Sampler(anyorder.LearnedOrder(policy))
    denoiser = WrappedDenoiser(Averaging(), MASK, WORDS, pad_token_id=pad)
    tokens = torch.tensor([[0, MASK, MASK, MASK]])
    expected = anyorder.decode(denoiser, tokens, sampler)
    found = anyorder.decode(denoiser, torch.cat([tokens, torch.full((1, 2), pad)], dim=1), sampler)
    assert torch.equal(found.tokens[:, :4], expected.tokens) and torch.equal(found.commit_step[:, :4], expected.commit_step)


def test_outputs_of_the_wrong_form_are_refused() -> None:
    tokens = torch.tensor([[0, MASK]])
    for form, message in [
        ("dict", "logits of type dict"),
        ("words", r"logits \(1, 2, 6\); for tokens \(1, 2\) and vocab_size=7 they must be \(1, 2, 7\)"),
        ("two", r"hidden states \(1, 2, 8\); .* hidden_size=7"),
    ]:
        with pytest.raises(BadInput, match=message):
            WrappedDenoiser(Averaging(form), MASK, WORDS)(tokens)
    with pytest.raises(BadInput, match="the mask token 9 is not in"):
        WrappedDenoiser(Averaging(), 9, WORDS)
    with pytest.raises(BadInput, match=r"pad_token_id is 6, which is the mask: .* give another token, or None"):
        WrappedDenoiser(Averaging(), MASK, WORDS, pad_token_id=MASK)
    with pytest.raises(BadInput, match=r"must be a torch\.nn\.Module"):
        WrappedDenoiser(lambda tokens: tokens, MASK, WORDS)  # type: ignore[arg-type]


@pytest.mark.parametrize("module", [Attending(), Averaging("two")])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_disturbs_nothing(module: nn.Module, side: str) -> None:
    denoiser = WrappedDenoiser(module, MASK, WORDS, 8).eval()
    rows = [[0, MASK, 2, MASK, 1], [MASK, 3], [4, MASK, MASK, 1, 0], [2]]
    tokens, mask = anyorder.collate(rows, PAD, side=side)
    out = denoiser(tokens, mask)
    chosen = denoiser(tokens, mask, tokens == MASK)
    torch.testing.assert_close(chosen.logits, out.logits[tokens == MASK])
    for row, real, number in zip(rows, mask, range(len(rows)), strict=True):
        alone = denoiser(torch.tensor([row]))
        torch.testing.assert_close(out.logits[number, real], alone.logits[0])
        torch.testing.assert_close(out.hidden[number, real], alone.hidden[0])


@pytest.mark.parametrize("module", [Attending(), Averaging("two")])
def test_a_padding_token_is_enough(module: nn.Module) -> None:
    denoiser = WrappedDenoiser(module, MASK, WORDS, 8, PAD).eval()
    tokens = torch.tensor([[0, MASK, 2, MASK], [PAD, PAD, MASK, 3], [PAD, PAD, PAD, PAD]])
    together = anyorder.decode(denoiser, tokens, "confidence").tokens
    for row in (0, 1):
        real = tokens[row] != PAD
        assert torch.equal(together[row][real], anyorder.decode(denoiser, tokens[row][real][None], "confidence").tokens[0])
    assert torch.equal(together[tokens != MASK], tokens[tokens != MASK])


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class `Net` of a module that a user wrote, with tied weights."""
    (tmp_path / "my_nets.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_nets", raising=False)
    import my_nets  # type: ignore[import-not-found]

    torch.manual_seed(3)
    return my_nets


TOKENS = torch.tensor([[0, MASK, MASK, 2], [MASK, 1, MASK, MASK]])


def in_a_new_process(folder: Path, expression: str) -> list[list[int]]:
    """The tokens that a denoiser decodes in a process that knows nothing of this one."""
    tokens = f"anyorder.decode({expression}, torch.tensor({TOKENS.tolist()}), 'margin').tokens.tolist()"
    code = f"import anyorder, torch; print({tokens})"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": f"{folder}:{Path(anyorder.__file__).parents[1]}", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    found: list[list[int]] = json.loads(out.stdout)
    return found


def test_a_wrapped_module_is_loaded_in_a_new_process(net: Any, tmp_path: Path) -> None:
    denoiser = WrappedDenoiser(net.Net(WORDS, width=12), MASK, WORDS, pad_token_id=PAD).eval()
    denoiser.save_pretrained(tmp_path / "mine")
    expected = anyorder.decode(denoiser, TOKENS, "margin").tokens.tolist()
    assert in_a_new_process(tmp_path, f"anyorder.load_denoiser({str(tmp_path / 'mine')!r})") == expected
    again = load_denoiser(tmp_path / "mine")
    assert (again.pad_token_id, again.module.width, again.source) == (PAD, 12, str(tmp_path / "mine"))
    save_denoiser(again, tmp_path / "copy")
    assert (tmp_path / "copy/config.json").read_text() == (tmp_path / "mine/config.json").read_text()
    assert anyorder.fingerprint(again) == anyorder.fingerprint(denoiser)


def test_a_class_and_its_weights_are_loaded_by_reference(net: Any, tmp_path: Path) -> None:
    module = net.Net(WORDS).eval()
    weights = tmp_path / "net.safetensors"
    safetensors.torch.save_file({k: v.clone() for k, v in module.state_dict().items()}, weights)
    expected = anyorder.decode(WrappedDenoiser(module, MASK, WORDS), TOKENS, "margin").tokens.tolist()
    how = f"weights={str(weights)!r}, words={WORDS}, vocab_size={WORDS}, mask_token_id={MASK}"
    assert in_a_new_process(tmp_path, f"anyorder.load_denoiser('my_nets:Net', {how})") == expected
    loaded = load_denoiser("my_nets:Net", weights=weights, words=WORDS, vocab_size=WORDS, mask_token_id=MASK)
    loaded.save_pretrained(tmp_path / "saved")
    assert anyorder.decode(load_denoiser(tmp_path / "saved"), TOKENS, "margin").tokens.tolist() == expected
    complete = load_denoiser("my_nets:Complete", weights=weights, vocab_size=WORDS, mask_token_id=MASK)
    assert type(complete) is net.Complete
    assert anyorder.decode(complete, TOKENS, "margin").tokens.tolist() == expected
    save_denoiser(complete, tmp_path / "complete")
    assert type(read_denoiser(tmp_path / "complete")) is net.Complete


def test_a_recipe_makes_a_denoiser_of_a_module_with_plain_logits(net: Any, tmp_path: Path) -> None:
    task = anyorder.make_task("sudoku", box=2)
    made = make_denoiser("my_nets:Net", task, {"words": task.vocab_size})
    assert isinstance(made, WrappedDenoiser) and made.mask_token_id == task.mask_token_id
    save_denoiser(made, tmp_path / "made")
    assert anyorder.fingerprint(read_denoiser(tmp_path / "made")) == anyorder.fingerprint(made)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("my_nets:Nut", {}, "has no attribute 'Nut'"),
        ("my_nets:torch", {}, "is not a class of denoisers"),
        ("my_nets:Net", {}, "cannot be made from no arguments: .*words"),
        ("my_nets:Net", {"words": 7, "depth": 2}, "cannot be made from words=7, depth=2: .*depth"),
        ("my_nets:Net", {"words": 7}, "not a denoiser: it has no .* To wrap it, give mask_token_id and vocab_size as well"),
        ("my_nets:Complete", {"vocab_size": 7, "mask_token_id": 6, "pad_token_id": 5}, "takes no pad_token_id"),
        ("my_nets:Net", {"words": 7, "weights": "nosuch.safetensors"}, "no such file: nosuch"),
        ("my_nets:Net", {"words": 7, "quantization": "4bit"}, "quantization is for Hugging Face models"),
        ("sudoku4", {"quantization": "4bit"}, "quantization is for Hugging Face models, and sudoku4 is not one"),
        ("sudoku4", {"weights": "w"}, "weights= is for a class"),
    ],
)
@pytest.mark.usefixtures("net")
def test_what_cannot_be_loaded_says_why(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load_denoiser(name, **options)


def test_what_cannot_be_saved_or_read_says_why(net: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"does not keep its arguments .*_weight.* module_arguments="):
        WrappedDenoiser(nn.Embedding(WORDS, WORDS), MASK, WORDS).save_pretrained(tmp_path / "a")
    sizes = {"num_embeddings": WORDS, "embedding_dim": WORDS}
    WrappedDenoiser(nn.Embedding(**sizes), MASK, WORDS, module_arguments=sizes).save_pretrained(tmp_path / "a")
    assert load_denoiser(tmp_path / "a").vocab_size == WORDS
    class_in_a_test = type("Local", (net.Net,), {"__qualname__": "test.<locals>.Local"})
    with pytest.raises(BadInput, match="cannot be found by name later"):
        WrappedDenoiser(class_in_a_test(WORDS), MASK, WORDS).save_pretrained(tmp_path / "b")
    config = (tmp_path / "a/config.json").read_text()
    (tmp_path / "a/config.json").write_text(config.replace('"embedding_dim": 7', '"embedding_dim": 9'))
    with pytest.raises(BadCheckpoint, match=r"no readable denoiser: .*Wrapped"):
        load_denoiser(tmp_path / "a")
    (tmp_path / "a/config.json").write_text(config.replace("torch.nn.modules.sparse:Embedding", "nosuch_package:Net"))
    with pytest.raises(BadInput, match="nosuch_package:Net"):
        load_denoiser(tmp_path / "a")
    (tmp_path / "a/config.json").write_text('{"class": "my_nets:Net", "words": 7}')
    with pytest.raises((BadInput, BadCheckpoint), match=r"no readable denoiser|no denoiser"):
        load_denoiser(tmp_path / "a")


def test_a_class_serves_the_task_that_is_named(net: Any) -> None:
    task = anyorder.make_task("sudoku", box=2)
    size = {"vocab_size": task.vocab_size, "mask_token_id": task.mask_token_id}
    denoiser = load_denoiser("my_nets:Net", words=task.vocab_size, **size)
    assert anyorder.task_for(denoiser, "sudoku", box=2).length == 16
    with pytest.raises(BadInput, match="my_nets:Net does not say which task it is for: name one"):
        anyorder.task_for(denoiser)
    with pytest.raises(BadInput, match="disagree: vocabulary size"):
        anyorder.task_for(denoiser, "sudoku")
    with pytest.raises(BadInput, match="nosuch_package:Net names a class, but there is no package nosuch_package: install it"):
        load_denoiser("nosuch_package:Net")


def test_a_class_is_used_by_the_commands(net: Any, tmp_path: Path) -> None:
    options = ["--model-option", "words=5", "--model-option", "vocab_size=5", "--model-option", "mask_token_id=0"]
    command = ["evaluate", "--task", "sudoku", "--task-option", "box=2", "--limit", "3", "--orders", "confidence"]
    done = CliRunner().invoke(app, [*command, "--model", "my_nets:Net", *options, "--json", str(tmp_path / "table.json")])
    assert done.exit_code == 0, done.output
    meta = json.loads((tmp_path / "table.json").read_text())["meta"]
    assert meta["denoiser"] == "my_nets:Net"
