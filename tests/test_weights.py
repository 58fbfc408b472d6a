"""Weights of other people: no memory is spent on what their configuration claims, and what is not finite is refused."""

import json
import math
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from anyorder.decoding.result import Decoded
from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.classes import denoiser_of_class
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.denoisers.wrapped import WrappedDenoiser
from anyorder.errors import AnyorderError, BadCheckpoint, BadInput
from anyorder.weights import check_finite, first_not_finite, limited_to
from anyorder.zoo import folder_of, load_denoiser, load_order, saved_task


class TableModel(nn.Module):
    """Logits by a table, and a buffer as a causal mask."""

    def __init__(self, size: int = 5) -> None:
        super().__init__()
        self.size = size
        self.table = nn.Embedding(size, 5)
        self.register_buffer("bias", torch.full((2,), -torch.inf))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table(tokens)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of a shipped denoiser with its order."""
    return Path(shutil.copytree(folder_of("sudoku4"), tmp_path / "model"))


@pytest.fixture
def sampler(tmp_path: Path) -> Path:
    Sampler(load_order("sudoku4")).save_pretrained(tmp_path / "sampler")
    return tmp_path / "sampler"


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_weights(path: Path, name: str, number: float) -> None:
    tensors = safetensors.torch.load_file(path)
    tensors[name].view(-1)[-1] = number
    safetensors.torch.save_file(tensors, path)


def costs_nothing(use: Callable[[], object], message: str) -> None:
    """The one error comes without hundreds of megabytes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(AnyorderError, match=message):
        use()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "kilobytes"


HUGE = "do not belong together|can't allocate|allocate memory|overflow|must lie in"


@pytest.mark.parametrize("number", [10**6, 10**12])
@pytest.mark.parametrize("key", ["layers", "loops", "width", "vocab_size", "max_length", "mlp_ratio", "mask_token_id"])
def test_a_denoiser_is_no_larger_than_its_weights(model: Path, key: str, number: int) -> None:
    change(model / "config.json", **{key: number})
    costs_nothing(lambda: load_denoiser(model), HUGE)


@pytest.mark.parametrize("number", [10**6, 10**12])
@pytest.mark.parametrize("key", ["layers", "width", "vocab_size", "hidden_size", "max_length"])
def test_a_policy_and_a_sampler_are_no_larger_than_their_weights(model: Path, sampler: Path, key: str, number: int) -> None:
    change(model / "order" / "config.json", **{key: number})
    costs_nothing(lambda: load_order(model), HUGE)
    change(sampler / "policy-0" / "config.json", **{key: number})
    costs_nothing(lambda: Sampler.from_pretrained(sampler), HUGE)


def test_a_wrapped_module_is_no_larger_than_its_weights(tmp_path: Path) -> None:
    WrappedDenoiser(TableModel(), mask_token_id=4, vocab_size=5).save_pretrained(tmp_path)
    load_denoiser(tmp_path)
    change(tmp_path / "config.json", module_arguments={"size": 10**7})
    costs_nothing(lambda: load_denoiser(tmp_path), "do not belong together")


@pytest.mark.parametrize("key", ["num_hidden_layers", "vocab_size", "hidden_size", "intermediate_size"])
def test_a_model_of_hugging_face_is_no_larger_than_its_weights(tmp_path: Path, key: str) -> None:
    change(save_small_bert(tmp_path) / "config.json", **{key: 10**8})
    costs_nothing(lambda: HuggingFaceDenoiser.from_pretrained(tmp_path, mask_token_id=4), "do not belong together")


@pytest.mark.parametrize("key", ["num_hidden_layers", "vocab_size", "hidden_size"])
def test_nor_is_one_with_weights_of_torch(tmp_path: Path, key: str) -> None:
    save_small_bert(tmp_path)
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    HuggingFaceDenoiser.from_pretrained(tmp_path, mask_token_id=4)
    change(tmp_path / "config.json", **{key: 10**8})
    costs_nothing(lambda: HuggingFaceDenoiser.from_pretrained(tmp_path, mask_token_id=4), "do not belong together")


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_nor_is_one_that_is_loaded_by_its_hub_id(tmp_path: Path, kind: str) -> None:
    hub, commit = tmp_path / "models--owner--name", "0" * 40
    (hub / "refs").mkdir(parents=True)
    (hub / "refs" / "main").write_text(commit)
    folder = save_small_bert(hub / "snapshots" / commit)
    if kind == "bin":
        torch.save(safetensors.torch.load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()

    def load() -> HuggingFaceDenoiser:
        return HuggingFaceDenoiser.from_pretrained("owner/name", mask_token_id=4, cache_dir=tmp_path, local_files_only=True)

    assert load().vocab_size == 8
    change(folder / "config.json", num_hidden_layers=10**8)
    costs_nothing(load, "do not belong together")


def save_small_bert(folder: Path) -> Path:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, max_position_embeddings=8
    )
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    return folder


def test_the_limit_counts_this_thread_only_and_ends_with_its_body(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    with limited_to([tmp_path / "a.safetensors"]), pytest.raises(BadCheckpoint, match="the weights are 2 in 1"):
        nn.ModuleList(nn.Linear(1, 1) for _ in range(10_000))
    assert len(nn.ModuleList(nn.Linear(1, 1) for _ in range(1_100))) == 1_100
    with limited_to([]):
        assert len(nn.ModuleList(nn.Linear(1, 1) for _ in range(1_100))) == 1_100


# ---- not finite -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused_by_name(model: Path, sampler: Path, number: float) -> None:
    change_weights(model / "model.safetensors", "final_norm.weight", number)
    with pytest.raises(BadCheckpoint, match=r"the tensor final_norm.weight of .*model.safetensors is not finite"):
        load_denoiser(model)
    change_weights(model / "order" / "model.safetensors", "out.bias", number)
    with pytest.raises(BadCheckpoint, match=r"the tensor out.bias of .*order/model.safetensors is not finite"):
        load_order(model)
    change_weights(sampler / "policy-0" / "model.safetensors", "norm.bias", number)
    with pytest.raises(BadCheckpoint, match=r"the tensor norm.bias of .*policy-0/model.safetensors is not finite"):
        Sampler.from_pretrained(sampler)


def test_so_are_those_of_a_class_of_ones_own_and_of_hugging_face(tmp_path: Path) -> None:
    safetensors.torch.save_file({**TableModel().state_dict(), "table.weight": torch.full((5, 5), torch.nan)}, tmp_path / "w")
    with pytest.raises(BadCheckpoint, match=r"the tensor table.weight of .* is not finite"):
        denoiser_of_class(f"{__name__}:TableModel", {"mask_token_id": 4, "vocab_size": 5}, tmp_path / "w")
    change_weights(save_small_bert(tmp_path / "bert") / "model.safetensors", "bert.embeddings.word_embeddings.weight", math.inf)
    with pytest.raises(BadCheckpoint, match=r"the tensor bert.embeddings.word_embeddings.weight of .*bert is not finite"):
        HuggingFaceDenoiser.from_pretrained(tmp_path / "bert", mask_token_id=4)


def test_a_mask_of_minus_infinity_is_no_fault_and_nan_in_a_buffer_is() -> None:
    module = TableModel()
    check_finite(module, "here")
    module.bias[0] = torch.nan
    with pytest.raises(BadCheckpoint, match="the tensor bias of here"):
        check_finite(module, "here")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_dtype_is_looked_at(dtype: torch.dtype) -> None:
    good, bad = torch.zeros(3, dtype=dtype), torch.tensor([0, torch.nan, 1], dtype=dtype)
    assert first_not_finite({"a": good, "b": bad, "c": torch.zeros(0), "d": torch.tensor([1])}) == "b"
    assert first_not_finite({"a": good, "c": torch.zeros(0), "d": torch.tensor([1])}) is None


# ---- no regular files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "task.json", "order/model.safetensors", "order/config.json"])
def test_a_fifo_among_the_files_of_a_model_is_not_waited_for(model: Path, name: str) -> None:
    (model / name).unlink()
    os.mkfifo(model / name)
    with pytest.raises(AnyorderError, match=r"no regular file|holds no order policy"):
        load_denoiser(model), load_order(model), saved_task(model)


def test_nor_is_one_in_place_of_other_tensors(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.safetensors")
    with pytest.raises(BadInput, match="no regular file"):
        Decoded.load(tmp_path / "fifo.safetensors")
    save_small_bert(tmp_path / "bert")
    (tmp_path / "bert" / "model.safetensors").unlink()
    os.mkfifo(tmp_path / "bert" / "model.safetensors")
    with pytest.raises(BadCheckpoint, match="no regular file"):
        HuggingFaceDenoiser.from_pretrained(tmp_path / "bert", mask_token_id=4)
