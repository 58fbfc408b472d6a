"""A bidirectional transformer in two forms: the plain one of the paper and a structured one that trains on a CPU.

The plain form is GPT-2 without its causal mask (3 layers, 384 wide, 12 heads, learned positions: 5.5 M weights). In the
structured form attention heads are restricted to relations that the task supplies (row, column, box; variable, clause),
and positions need no embedding, since the relations say where a token stands.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from anyorder.denoisers.attention_store import AttentionStore, Columns, check_not_compiled
from anyorder.denoisers.base import DenoiserOutput, check_mask_token, forbid_mask
from anyorder.denoisers.blocks import as_bias, block_causal_mask, block_numbers, check_block_length, training_mask
from anyorder.errors import BadInput
from anyorder.files import written_as_a_whole
from anyorder.registry import DENOISERS
from anyorder.relations import EVERYTHING, Relation
from anyorder.signatures import checked

MOST_LOOPS = 1000
"""Passes through the blocks cost time and no weights, so nothing else bounds their number in other people's configurations."""


IN_FLOAT32 = ("cpu",)
"""Kinds of devices on which attention computes in float32 under `torch.autocast`."""


def scaled_dot_product(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """`F.scaled_dot_product_attention`, (B, H, L, D / H). In mixed precision on a CPU it computes in float32, since PyTorch's
    backward pass in bfloat16 takes four times as long there (`benchmarks/mixed_precision.py`)."""
    kind = query.device.type
    if kind not in IN_FLOAT32 or not torch.is_autocast_enabled(kind):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    with torch.autocast(kind, enabled=False):
        exact = F.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), attn_mask=None if bias is None else bias.float()
        )
    return exact.to(query.dtype)


class Block(nn.Module):
    """Pre-norm transformer block: attention with an additive bias per head, then an MLP with GELU."""

    def __init__(self, width: int, heads: int, mlp_ratio: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, mlp_ratio * width)
        self.mlp_out = nn.Linear(mlp_ratio * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, bias: Tensor | None) -> Tensor:
        """hidden (B, L, D); bias broadcastable to (B, H, L, L), -inf where a head may not look."""
        after: Tensor = hidden + self.dropout(self.attend(self.attention_norm(hidden), bias))
        changed: Tensor = after + self.dropout(self.mlp(self.mlp_norm(after)))
        return changed

    def attend(self, hidden: Tensor, bias: Tensor | None) -> Tensor:
        """Attention alone, (B, L, D)."""
        batch, length, width = hidden.shape
        qkv = self.qkv(hidden).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product(query, key, value, bias)
        out: Tensor = self.attention_out(attended.transpose(1, 2).reshape(batch, length, width))
        return out

    def weights(self, hidden: Tensor, bias: Tensor | None) -> Tensor:
        """The weights of the attention, (B, H, L, L)."""
        batch, length, width = hidden.shape
        query, key = self.qkv(hidden).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)[:2]
        scores = query @ key.transpose(2, 3) / (width // self.heads) ** 0.5
        return torch.softmax(scores if bias is None else scores + bias, dim=-1)

    def mlp(self, hidden: Tensor) -> Tensor:
        """The MLP alone, (B, L, D)."""
        out: Tensor = self.mlp_out(F.gelu(self.mlp_in(hidden)))
        return out


class RelationHeads(nn.Module):
    """The relations of a task as buffers, and as an additive attention bias with one relation per head."""

    pairs: Tensor
    position_group: Tensor
    token_group: Tensor

    def __init__(self, head_relations: Sequence[str], length: int, vocab_size: int) -> None:
        super().__init__()
        self.names = sorted(set(head_relations) - {EVERYTHING})
        self.head_relations = list(head_relations)
        count = len(self.names)
        self.register_buffer("pairs", torch.zeros(count, length, length, dtype=torch.bool))
        self.register_buffer("position_group", torch.full((count, length), -1))
        self.register_buffer("token_group", torch.full((count, vocab_size), -1))

    def set(self, relations: Mapping[str, Relation]) -> None:
        """Fill the buffers from the task's relations."""
        missing = [name for name in self.names if name not in relations]
        if missing:
            known = ", ".join(sorted(relations)) or "none"
            raise ValueError(f"no relation called {', '.join(missing)}: this task has {known}, and {EVERYTHING!r}")
        for index, name in enumerate(self.names):
            relation = relations[name]
            if relation.pairs.shape != self.pairs.shape[1:]:
                raise ValueError(
                    f"relation {name!r} is over {relation.pairs.shape[0]} positions; the model has {self.pairs.shape[1]}"
                )
            self.pairs[index] = relation.pairs
            if relation.position_group is not None and relation.token_group is not None:
                self.position_group[index] = relation.position_group
                self.token_group[index] = relation.token_group

    def bias(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """0 where a head may look and -inf elsewhere, (1 or B, H, L, L)."""
        if tokens.shape[1] != self.pairs.shape[1]:
            raise BadInput(f"this model is built for {self.pairs.shape[1]} tokens; it was given {tokens.shape[1]}")
        by_name = {
            name: Relation(self.pairs[i], self.position_group[i], self.token_group[i])
            if (self.token_group[i] >= 0).any()
            else Relation(self.pairs[i])
            for i, name in enumerate(self.names)
        }
        length = tokens.shape[1]
        anywhere = torch.ones(1, length, length, dtype=torch.bool, device=tokens.device)
        allowed = {name: relation(tokens) for name, relation in by_name.items()} | {EVERYTHING: anywhere}
        batch = max(relation.shape[0] for relation in allowed.values())
        diagonal = torch.eye(length, dtype=torch.bool, device=tokens.device)  # a head must always have somewhere to look
        biases = {
            name: torch.zeros(relation.shape, dtype=dtype, device=tokens.device)
            .masked_fill_(~(relation | diagonal), -torch.inf)
            .expand(batch, length, length)
            for name, relation in allowed.items()
        }
        return torch.stack([biases[name] for name in self.head_relations], dim=1)


@dataclass(frozen=True)
class TransformerSettings:
    """Settings of a `Transformer` that a recipe trains."""

    width: int = field(default=96, metadata={"help": "width of the blocks"})
    layers: int = field(default=6, metadata={"help": "number of blocks"})
    heads: tuple[str, ...] = field(
        default=(EVERYTHING,), metadata={"help": "one relation of the task per head; 'everything' is plain attention"}
    )
    mlp_ratio: int = field(default=4, metadata={"help": "hidden units of the MLPs over the width"})
    dropout: float = field(default=0.0, metadata={"help": "in training"})
    loops: int = field(default=1, metadata={"help": "passes through the blocks, with the same weights"})
    positions: bool = field(default=False, metadata={"help": "learned position embeddings"})
    block_length: int | None = field(
        default=None, metadata={"help": "positions per block of a block-causal mask; by default both sides are seen"}
    )


@DENOISERS.register("structured")
class Transformer(nn.Module, PyTorchModelHubMixin, library_name="anyorder"):
    """Bidirectional transformer denoiser.

    Args:
        vocab_size: V, the mask token included.
        mask_token_id: the mask.
        max_length: longest sequence; with relations, the only length.
        width: D. layers: blocks. mlp_ratio: hidden units of the MLP over D. dropout: in training.
        heads: one relation name per head, e.g. ["row", "column", "box", "everything"]; "everything" is plain attention.
        loops: how many times the stack of blocks is applied, with the same weights.
        positions: add learned position embeddings.
        pad_token_id: padding, which is never read; None if there is none.
        block_length: positions per block of a block-causal mask (block diffusion, see `anyorder.denoisers.blocks`); None to
            see both sides.

    Relations are set once with `set_relations` and are saved with the weights.
    """

    Settings: ClassVar[type] = TransformerSettings

    @classmethod
    def for_task(cls, task: Any, **settings: Any) -> "Transformer":
        """A fresh denoiser for a task, with its relations."""
        settings = {**settings, "heads": list(settings.get("heads", (EVERYTHING,)))}
        size = {"vocab_size": task.vocab_size, "mask_token_id": task.mask_token_id, "max_length": task.length}
        model = cls(**size, pad_token_id=task.pad_token_id, **settings)
        model.set_relations(task.relations())
        return model

    @checked("vocab_size", "mask_token_id", "max_length", "width", "layers", "heads", "mlp_ratio", "loops", "pad_token_id")
    def __init__(
        self,
        vocab_size: int,
        mask_token_id: int,
        max_length: int,
        width: int,
        layers: int,
        heads: list[str],
        mlp_ratio: int = 4,
        dropout: float = 0.0,
        loops: int = 1,
        positions: bool = True,
        pad_token_id: int | None = None,
        block_length: int | None = None,
    ) -> None:
        super().__init__()
        check_block_length(block_length)
        if not heads or width % len(heads):
            raise BadInput(f"width {width} is not a multiple of the {len(heads)} heads")
        if not 0 <= mask_token_id < vocab_size:
            raise BadInput(f"mask_token_id is {mask_token_id}; it must lie in 0..{vocab_size - 1}")
        check_mask_token(mask_token_id, vocab_size, pad_token_id)
        if pad_token_id is not None and not 0 <= pad_token_id < vocab_size:
            raise BadInput(f"pad_token_id is {pad_token_id}; it must lie in 0..{vocab_size - 1}, or be None")
        if not 1 <= loops <= MOST_LOOPS:
            raise BadInput(f"loops is {loops}; it must lie in 1..{MOST_LOOPS}")
        if block_length is not None and set(heads) - {EVERYTHING}:
            raise BadInput(f"with block_length a head sees all of its block and those before it: heads must be {EVERYTHING}")
        self.source = ""
        self.vocab_size = vocab_size
        self.mask_token_id = mask_token_id
        self.pad_token_id = pad_token_id
        self.hidden_size = width
        self.max_length = max_length
        self.loops = loops
        self.block_length = block_length
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.position_embedding = nn.Embedding(max_length, width) if positions else None
        self.dropout = nn.Dropout(dropout)
        self.relations = RelationHeads(heads, max_length, vocab_size) if set(heads) - {EVERYTHING} else None
        self.blocks = nn.ModuleList(Block(width, len(heads), mlp_ratio, dropout) for _ in range(layers))
        self.final_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab_size)
        self.apply(_initialize)
        for name, weight in self.blocks.named_parameters():
            if name.endswith(("attention_out.weight", "mlp_out.weight")):  # GPT-2: residual branches start small
                nn.init.normal_(weight, std=0.02 / (2 * layers) ** 0.5)

    def set_relations(self, relations: Mapping[str, Relation]) -> None:
        """Give the restricted heads the relations of a task."""
        if self.relations is not None:
            self.relations.set(relations)

    @checked("save_directory")
    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Write `config.json`, `model.safetensors` and a card, or nothing if one of them cannot be written.

        Args:
            save_directory: the folder. A card that is there stays.
            options: as for `PyTorchModelHubMixin`: push_to_hub, repo_id, ...
        """
        with written_as_a_whole(save_directory) as place:
            if (card := Path(save_directory) / "README.md").is_file():
                shutil.copy(card, place)
            return super().save_pretrained(place, **{"repo_id": Path(save_directory).name, **options})

    def _attention_bias(self, tokens: Tensor, attention_mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        padded = attention_mask is not None and not bool(attention_mask.all())
        if self.relations is None:
            if not padded or attention_mask is None:
                return None
            zeros = torch.zeros(attention_mask.shape, dtype=dtype, device=tokens.device)
            return zeros.masked_fill(~attention_mask.bool(), torch.finfo(dtype).min)[:, None, None, :]
        if padded:
            raise BadInput("a structured transformer has one fixed layout: it takes no padding")
        return self.relations.bias(tokens, dtype)

    def _block_bias(
        self, tokens: Tensor, attention_mask: Tensor | None, columns: Tensor | None, *, twice: bool, dtype: torch.dtype
    ) -> Tensor:
        """The block-causal bias; of the training pass if the tokens are given twice."""
        assert self.block_length is not None
        number = block_numbers(tokens, attention_mask, self.block_length)
        seen = training_mask(number, attention_mask) if twice else block_causal_mask(number, attention_mask, columns)
        return as_bias(seen, dtype)

    def forward(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
        columns: Tensor | None = None,
        clean: Tensor | None = None,
    ) -> DenoiserOutput:
        """See `Denoiser`. Padding may be on either side: positions are counted from the first real token.

        With `columns` int64 (B, n) only these are computed, within `AttentionStore.part`; then positions are bool (B, n), and
        hidden states (B, n, D). With `clean` int64 (B, L), the sequences without masks, every block sees these before it
        (training with `block_length`).
        """
        if tokens.shape[1] > self.max_length:
            raise BadInput(f"{tokens.shape[1]} tokens are more than the {self.max_length} this model was built for")
        given = tokens if columns is None else tokens.gather(1, columns)
        hidden = self.token_embedding(given if clean is None else torch.cat([given, clean], dim=1))
        if self.position_embedding is not None:
            if attention_mask is None:
                index = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
            else:
                index = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
            index = index if columns is None else index.gather(1, columns)
            hidden = hidden + self.position_embedding(index if clean is None else index.repeat(1, 2))
        hidden = self.dropout(hidden)
        if self.block_length is not None:
            bias = self._block_bias(tokens, attention_mask, columns, twice=clean is not None, dtype=hidden.dtype)
        else:
            bias = self._attention_bias(tokens, attention_mask, hidden.dtype)  # type: ignore[assignment]
            if columns is not None and bias is not None and bias.shape[2] > 1:
                bias = bias.take_along_dim(columns[:, None, :, None], dim=2)
        for _ in range(self.loops):
            for block in self.blocks:
                hidden = block(hidden, bias)
        hidden = self.final_norm(hidden if clean is None else hidden[:, : tokens.shape[1]])
        logits = self.head(hidden if positions is None else hidden[positions])
        return DenoiserOutput(forbid_mask(logits, self.mask_token_id), hidden)

    def start_cache(self) -> "TransformerCache":
        """An empty cache, for `anyorder.decoding.cache`.

        Raises:
            BadInput: the model is compiled.
        """
        check_not_compiled(self)
        return TransformerCache(self)


class TransformerCache:
    """The `DenoiserCache` of a `Transformer`."""

    def __init__(self, model: Transformer) -> None:
        self.model, self.store = model, AttentionStore()

    def full(self, tokens: Tensor, attention_mask: Tensor | None, positions: Tensor, rows: Tensor | None) -> DenoiserOutput:
        """See `DenoiserCache`."""
        with self.store.full(rows):
            output: DenoiserOutput = self.model(tokens, attention_mask, positions)
        return output

    def part(
        self, tokens: Tensor, attention_mask: Tensor | None, positions: Tensor, fresh: Tensor, rows: Tensor | None
    ) -> DenoiserOutput:
        """See `DenoiserCache`."""
        columns = Columns(fresh)
        with self.store.part(columns.index, rows, own_masks=True):
            wanted = positions.gather(1, columns.index) & columns.real
            logits, hidden = self.model(tokens, attention_mask, wanted, columns.index)
        return DenoiserOutput(logits, hidden[columns.real])

    def keep(self, rows: Tensor) -> None:
        """See `DenoiserCache`."""
        self.store.keep(rows)


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def paper_transformer(vocab_size: int, mask_token_id: int, max_length: int) -> Transformer:
    """The denoiser of arXiv 2606.00295 and Ye et al. 2024: GPT-2 with 3 layers, 384 wide, 12 heads, dropout 0.1."""
    return Transformer(
        vocab_size=vocab_size,
        mask_token_id=mask_token_id,
        max_length=max_length,
        width=384,
        layers=3,
        heads=[EVERYTHING] * 12,
        dropout=0.1,
    )


@dataclass(frozen=True)
class PaperSettings:
    """The transformer of the paper has a fixed size."""


@DENOISERS.register("paper")
class PaperTransformer(Transformer):
    """The denoiser of arXiv 2606.00295: a plain `Transformer` of a fixed size, see `paper_transformer`."""

    Settings: ClassVar[type] = PaperSettings

    @classmethod
    def for_task(cls, task: Any, **settings: Any) -> Transformer:
        """A fresh denoiser for a task."""
        return paper_transformer(task.vocab_size, task.mask_token_id, task.length)
