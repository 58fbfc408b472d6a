"""Tiny random models of the true classes: an ESM like DPLM's, and an ESMFold."""

from pathlib import Path

import torch
import transformers

from anyorder.tasks.alphabets import ESM

_SMALL = {
    "vocab_size": 33, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 64, "position_embedding_type": "rotary", "mask_token_id": 32, "pad_token_id": 1,
    "token_dropout": True,
}  # fmt: skip


def save_esm(folder: Path) -> Path:
    """An `EsmForMaskedLM` with its vocabulary, as DPLM is on the hub."""
    torch.manual_seed(0)
    transformers.EsmForMaskedLM(transformers.EsmConfig(**_SMALL)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(ESM.tokens))
    return folder


def save_esmfold(folder: Path) -> Path:
    """An `EsmForProteinFolding` whose scores depend on the sequence."""
    torch.manual_seed(0)
    structure = {
        "sequence_dim": 16, "pairwise_dim": 8, "ipa_dim": 4, "resnet_dim": 8, "num_heads_ipa": 2, "num_qk_points": 2,
        "num_v_points": 2, "num_blocks": 1, "num_resnet_blocks": 1,
    }  # fmt: skip
    trunk = {
        "num_blocks": 1, "sequence_state_dim": 16, "pairwise_state_dim": 8, "sequence_head_width": 8,
        "pairwise_head_width": 4, "position_bins": 4, "max_recycles": 1, "structure_module": structure,
    }  # fmt: skip
    folding = {"fp16_esm": True, "lddt_head_hid_dim": 8, "trunk": trunk}
    config = transformers.EsmConfig(**_SMALL, is_folding_model=True, esmfold_config=folding, vocab_list=list(ESM.tokens))
    model = transformers.EsmForProteinFolding(config)
    for parameter in model.parameters():  # a fresh model starts with many zeros, and says the same of every sequence
        parameter.data.normal_(std=0.3)
    model.save_pretrained(folder)
    return folder
