"""Decode any number of instances, in batches and by several processes."""

from collections.abc import Callable, Sequence

import torch

from anyorder.decoding.caches import none
from anyorder.decoding.callbacks import Callback
from anyorder.decoding.loop import decode
from anyorder.decoding.result import Decoded
from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.base import Denoiser
from anyorder.denoisers.shared_passes import SharedPasses
from anyorder.ends import Ends
from anyorder.errors import check_number
from anyorder.processes import Shard
from anyorder.signatures import checked
from anyorder.tasks.base import Instances

Progress = Callable[[str, int, int], None]
"""Called with the name of what is decoded, the instances done, and their number."""


@checked("seed", "batch_size")
def decode_in_batches(
    denoiser: Denoiser,
    instances: Instances,
    sampler: Sampler,
    *,
    seed: int,
    batch_size: int,
    progress: Progress | None,
    name: str,
    shard: Shard = Shard(),
    ends: Ends | None = None,
    on_step: Callback | Sequence[Callback] = (),
) -> Decoded:
    """Decode all instances on the denoiser's device; instance i has the seed `seed * 2^32 + i` whatever the batch size.

    Sequences of similar length are decoded together, without superfluous padding. The batches are distributed
    over the processes of `shard`, and each returns the complete result, bit for bit what one process alone would return.
    Callbacks (`on_step`) recognize an instance by its seed. `ends` stop a sequence, see `decode`.
    """
    check_number("seed", seed, -(2**31), 2**31 - 1)
    check_number("batch_size", batch_size, 1)
    parts = []
    known = getattr(denoiser, "pad_token_id", None)
    pad = -1 if known is None else int(known)
    columns = torch.arange(1, instances.tokens.shape[1] + 1)
    lengths = torch.where(instances.tokens != pad, columns, 0).amax(dim=1)
    order = lengths.argsort(descending=True, stable=True)
    shares = [order.split(batch_size)[process :: shard.count] for process in range(shard.count)]
    mine = shares[shard.index]
    for index in mine:
        batch, width = instances[index], max(1, int(lengths[index].max()))
        x0 = None if batch.x0 is None else batch.x0[:, :width]
        seeds = index + seed * 2**32
        decoded = decode(denoiser, batch.tokens[:, :width], sampler, seeds=seeds, x0=x0, ends=ends, on_step=on_step)
        parts.append(decoded if width == len(columns) else decoded.widen(len(columns), pad))
        if progress is not None:
            progress(name, sum(len(part.tokens) for part in parts), sum(len(index) for index in mine))
    decoded_order = torch.cat([index for share in shares for index in share])
    return Decoded.join([part for share in shard.gather(parts) for part in share])[decoded_order.argsort()]


def model_for(sampler: Sampler, denoiser: Denoiser, shared: SharedPasses | None) -> Denoiser:
    """The denoiser for a sampler: with shared passes, unless it reads attention or has a cache of its own."""
    alone = shared is None or sampler.reads_attention or sampler.cache is not none
    return denoiser if alone else shared  # type: ignore[return-value]
