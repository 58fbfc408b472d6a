"""What is read besides the weights of a Hugging Face model: mask, special tokens, padding, positions, where files come from."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from anyorder.cli import app
from anyorder.decoding.loop import decode
from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.base import attention_of
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.denoisers.special_tokens import tokens_of_no_text
from anyorder.errors import BadCheckpoint, BadInput
from anyorder.orders.heuristics import confidence
from anyorder.tasks.alphabets import alphabet_of
from anyorder.tasks.sequences import Sequences
from anyorder.tasks.tokenizer_alphabet import TokenizerAlphabet
from anyorder.zoo import load_denoiser
from anyorder.zoo.matching import task_for
from tiny_llada import MASK, SPECIAL, save_llada

transformers = pytest.importorskip("transformers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(chr(97 + i) for i in range(25))]


def save_bert(folder: Path, words: list[str] = WORDS, outputs: int | None = None, **special: str) -> Path:
    """A tiny BERT with a tokenizer of single letters."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    transformers.BertTokenizer(str(folder / "vocab.txt"), **special).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=outputs or len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64,
    )  # fmt: skip
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    return folder


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_nothing_is_produced_that_is_no_text(tmp_path: Path) -> None:
    folder = save_llada(tmp_path / "llada")
    denoiser = HuggingFaceDenoiser.from_pretrained(folder, trust_remote_code=True)
    assert denoiser.forbidden == list(range(256, 272)), "special tokens, added ones too, and outputs without a token"
    tokens = torch.full((2, 12), MASK)
    assert int(decode(denoiser, tokens, Sampler(confidence, steps=4)).tokens.max()) < 256
    assert tokens_of_no_text(denoiser.tokenizer, 272) == set(range(256, 272))
    assert len(SPECIAL) == 8


def test_a_model_whose_mask_only_its_configuration_names_serves_text(tmp_path: Path) -> None:
    folder = save_llada(tmp_path / "llada")
    denoiser = load_denoiser(folder, trust_remote_code=True)
    task = task_for(denoiser, "text", length=20)
    assert isinstance(task, Sequences)
    problem = task.parse("one_{3}two")
    assert int((problem.tokens == MASK).sum()) == 3
    assert task.encode(["one<|mdm_mask|>"]).tokens[0].tolist().count(MASK) == 1
    assert task.decode(task.encode(["née"]).x0) == ["née"]  # type: ignore[arg-type]
    assert task.symbols.symbols == frozenset(range(256))
    with pytest.raises(BadInput, match=r"has no mask token|neither an alphabet"):
        alphabet_of(str(folder))


def test_padding_that_ends_texts_as_well_gives_way_to_another_token(tmp_path: Path) -> None:
    folder = save_bert(tmp_path / "bert", pad_token="[SEP]")
    denoiser = load_denoiser(folder)
    assert denoiser.pad_token_id is None, "the end of a text is no padding"
    task = task_for(denoiser, "text", length=20)
    assert isinstance(task, Sequences)
    both = task.encode(["_{4}", "_{14}"])
    assert both.labels["length"].tolist() == [6, 16]
    assert attention_of(denoiser, both.tokens) is not None
    alone = task.encode(["_{4}"])
    decoder = Sampler(confidence, steps=4)
    apart, together = (decode(denoiser, problem.tokens, decoder).tokens[0, :6] for problem in (alone, both))
    assert torch.equal(apart, together)


def test_a_tokenizer_without_anything_to_pad_with_is_refused() -> None:
    class Letters:
        pad_token_id = unk_token_id = cls_token_id = bos_token_id = None
        all_special_ids = ()

        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [ord(c) - 97 for c in text]}

        def get_vocab(self) -> dict[str, int]:
            return {chr(97 + n): n for n in range(4)}

    with pytest.raises(BadInput, match="no special token to pad with: give it a pad token"):
        TokenizerAlphabet(Letters(), 5, 4)
    assert TokenizerAlphabet(Letters(), 6, 4).pad_token_id == 5, "an output without a token does as well"


def test_the_word_that_a_tokenizer_does_not_know_is_named(tmp_path: Path) -> None:
    denoiser = load_denoiser(save_bert(tmp_path / "bert"))
    task = task_for(denoiser, "text", length=20)
    with pytest.raises(BadInput, match=r"does not know 'ⵣⵣⵣ'"):
        task.parse("a b ⵣⵣⵣ")
    with pytest.raises(BadInput, match=r"does not know 'ⵣ{37}\.\.\.'"):
        task.parse("a " + "ⵣ" * 50)


def test_a_character_task_is_refused_by_a_model_of_words(tmp_path: Path) -> None:
    from anyorder import check_fits, make_task

    denoiser = load_denoiser(save_bert(tmp_path / "bert"))
    with pytest.raises(BadInput, match=r"disagree: vocabulary size .* anyorder\.task_for\(denoiser\) makes the right task"):
        check_fits(make_task("text"), denoiser)


def test_tokenizer_and_configuration_must_mean_the_same_mask(tmp_path: Path) -> None:
    folder = save_bert(tmp_path / "bert")
    change_config(folder, mask_token_id=29)
    with pytest.raises(BadInput, match=r"disagree: mask 4 against 29; give mask_token_id \(--model-option mask_token_id=N\)"):
        HuggingFaceDenoiser.from_pretrained(folder)
    assert HuggingFaceDenoiser.from_pretrained(folder, mask_token_id=29).mask_token_id == 29


def test_a_model_without_tokenizer_keeps_the_special_tokens_of_its_configuration(tmp_path: Path) -> None:
    folder = save_bert(tmp_path / "bert")
    for file in ("vocab.txt", "tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink(missing_ok=True)
    change_config(folder, eos_token_id=[6, 7], bos_token_id=5)
    denoiser = HuggingFaceDenoiser.from_pretrained(folder, mask_token_id=4)
    assert denoiser.forbidden == [0, 4, 5, 6, 7]
    assert HuggingFaceDenoiser.from_pretrained(folder, mask_token_id=4, forbid=[9]).forbidden == [4, 9]


def test_a_tokenizer_that_cannot_be_read_is_worth_a_warning(tmp_path: Path) -> None:
    folder = save_bert(tmp_path / "bert")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "vocab.txt").unlink(missing_ok=True)
    with pytest.warns(UserWarning, match="tokenizer of .* cannot be read"):
        assert HuggingFaceDenoiser.from_pretrained(folder, mask_token_id=4).tokenizer is None


def test_weights_of_another_size_are_named(tmp_path: Path) -> None:
    folder = save_bert(tmp_path / "bert")
    change_config(folder, intermediate_size=40)
    with pytest.raises(BadCheckpoint, match="no readable weights for its configuration"):
        HuggingFaceDenoiser.from_pretrained(folder)


def test_esm_may_lack_the_weights_that_predict_contacts(tmp_path: Path) -> None:
    import safetensors.torch

    config = transformers.EsmConfig(
        vocab_size=33, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, pad_token_id=1,
        mask_token_id=32, position_embedding_type="rotary",
    )  # fmt: skip
    transformers.EsmForMaskedLM(config).save_pretrained(tmp_path)
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "contact_head" not in name}
    assert len(kept) < len(weights)
    safetensors.torch.save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    assert HuggingFaceDenoiser.from_pretrained(tmp_path).mask_token_id == 32
    kept.pop(next(name for name in kept if "query.weight" in name))
    safetensors.torch.save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadInput, match=r"no weights for .*query\.weight"):
        HuggingFaceDenoiser.from_pretrained(tmp_path)


def test_where_files_come_from_holds_for_configuration_and_tokenizer_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_bert(tmp_path / "bert")
    asked: list[tuple[str, dict[str, Any]]] = []
    for name in ("AutoConfig", "AutoTokenizer", "AutoModelForMaskedLM"):
        auto = getattr(transformers, name)
        plain = auto.from_pretrained

        def recorded(*arguments: Any, name: str = name, plain: Any = plain, **options: Any) -> Any:
            asked.append((name, options))
            return plain(*arguments, **options)

        monkeypatch.setattr(auto, "from_pretrained", recorded)
    HuggingFaceDenoiser.from_pretrained(folder, revision="abc", token=False, dtype=torch.bfloat16)
    assert [name for name, _ in asked].count("AutoTokenizer") == 1
    assert all((given["revision"], given["token"], given["trust_remote_code"]) == ("abc", False, False) for _, given in asked)
    assert "AutoTokenizer" not in [name for name, given in asked if "dtype" in given]


def test_a_list_of_pieces_of_words_is_left_to_the_models_own_tokenizer(tmp_path: Path) -> None:
    folder = save_bert(tmp_path / "bert", [*WORDS, "the", "cat", "##s"])
    (folder / "tokenizer.json").unlink()
    symbols = alphabet_of(str(folder))
    assert isinstance(symbols, TokenizerAlphabet)
    assert symbols.decode(symbols.encode("the cats")) in ("the cats", "the cat ##s")
    plain = tmp_path / "plain"
    plain.mkdir()
    shutil.copy(folder / "config.json", plain)
    (plain / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    assert not isinstance(alphabet_of(str(plain)), TokenizerAlphabet)


def test_options_of_the_model_come_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_bert(tmp_path / "bert")
    (tmp_path / "texts.txt").write_text("a b c d\n" * 3)
    given: list[dict[str, Any]] = []
    plain = transformers.AutoModelForMaskedLM.from_pretrained

    def recorded(*arguments: Any, **options: Any) -> Any:
        given.append(options)
        return plain(
            *arguments, **{name: value for name, value in options.items() if name not in ("quantization_config", "device_map")}
        )

    monkeypatch.setattr(transformers.AutoModelForMaskedLM, "from_pretrained", recorded)
    common = ["--task", "text", "--model", str(folder), "--order", "confidence", "--steps", "2"]
    options = ["--model-option", "dtype=bfloat16", "--model-option", "revision=abc", "--model-option", "device=cpu"]
    result = CliRunner().invoke(app, ["sample", "a_{3}b", *common, *options])
    assert result.exit_code == 0, result.output
    assert (given[0]["dtype"], given[0]["revision"]) == (torch.bfloat16, "abc")
    load_denoiser(str(folder), quantization="4bit", device="cpu")
    assert given[1]["quantization_config"].load_in_4bit
    assert given[1]["device_map"] == {"": "cpu"}
    headroom = ["headroom", *common[:4], "--data", str(tmp_path / "texts.txt"), "--steps", "2", "--task-option", "hide=.5"]
    result = CliRunner().invoke(app, [*headroom, "--model-option", "mask_token_id=29"])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ({"dtype": "float8"}, "dtype 'float8' is unknown: use bfloat16, float16 or float32"),
        ({"dtype": "int64"}, "dtype 'int64' is unknown"),
        ({"device": "abacus"}, "device 'abacus' cannot be used"),
        ({"quantization": "2bit"}, "use 4bit or 8bit"),
        ({"mask_token_id": 300}, "300 is not in the model's vocabulary"),
    ],
)
def test_options_that_mean_nothing_are_refused(tmp_path: Path, option: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        load_denoiser(str(save_bert(tmp_path / "bert")), **option)


def test_our_own_models_take_no_options_of_hugging_face() -> None:
    with pytest.raises(BadInput, match="sudoku4 is not a model of Hugging Face: it does not take revision"):
        load_denoiser("sudoku4", revision="abc")
    assert next(load_denoiser("sudoku4", dtype="bfloat16").parameters()).dtype == torch.bfloat16


def test_a_hub_that_cannot_be_reached_is_one_error_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The libraries would try five times, for half a minute."""
    from huggingface_hub import constants

    from anyorder import hub

    asked: list[str] = []

    def refuse(address: tuple[str, int], timeout: float) -> None:
        asked.append(address[0])
        raise OSError("no route to host")

    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    began = time.monotonic()
    with pytest.raises(BadInput, match="nobody/nothing cannot be loaded as a masked-token model"):
        load_denoiser("nobody/nothing")
    with pytest.raises(BadInput, match="nobody/nothing is not a folder here, and cannot be downloaded from the hub"):
        hub.download("nobody/nothing")
    with pytest.raises(BadInput, match="nobody/nothing' is neither an alphabet"):
        alphabet_of("nobody/nothing")
    assert set(asked) == {"huggingface.co"} and time.monotonic() - began < 5
    asked.clear()
    assert hub.of_hub(tmp_path) == {} and hub.of_hub("a/b", {"local_files_only": False}) == {"local_files_only": False}
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.of_hub("a/b") == {"local_files_only": True}
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "getproxies", lambda: {"https": "http://proxy:8080"})
    assert hub.of_hub("a/b") == {} and not asked
