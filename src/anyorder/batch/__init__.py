"""Prompts in a Parquet file, answers in a folder of Parquet files: by one process, or by many of a Ray cluster; resumable."""

import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

from anyorder.batch.plan import Plan as Plan
from anyorder.errors import AnyorderError, BadInput, first_line
from anyorder.files import locked

OnPart = Callable[[int, int], None]
"""Called with the number of a part that is done, and the process that answered it."""

_BLOCKS = 1000
"""Most pieces into which Ray Data cuts a batch: parts of one piece are answered by one worker."""


def run_batch(plan: Plan, workers: int = 1, gpus: float = 0, on_part: OnPart = lambda part, process: None) -> int:
    """Answer what is not answered yet.

    Args:
        plan: of the batch.
        workers: processes. With more than one they are actors of Ray, on the cluster that RAY_ADDRESS names, or on this
            machine; `source` and `out` must lie where every worker can reach them.
        gpus: GPUs of each worker, with Ray.
        on_part: see `OnPart`.

    Returns:
        How many parts were left to do.

    Raises:
        BadInput: something that cannot be read or used, a folder of another batch, or one that another process works in.
        AnyorderError: a worker failed.
    """
    plan.check()
    with locked(plan.out):
        plan.begin()
        left = plan.left()
        for part, process in _by_ray(plan, left, workers, gpus) if workers > 1 else _here(plan, left):
            on_part(part, process)
    return len(left)


def _here(plan: Plan, left: list[int]) -> Iterator[tuple[int, int]]:
    from anyorder.batch.worker import Worker

    worker = Worker(plan) if left else None
    for part in left:
        assert worker is not None
        worker.answer(part)
        yield part, os.getpid()


def _by_ray(plan: Plan, left: list[int], workers: int, gpus: float) -> Iterator[tuple[int, int]]:
    from anyorder.batch.worker import Actor

    ray = _ray()
    if not left:
        return
    own = not ray.is_initialized()
    if own:
        ray.init(logging_level="ERROR", log_to_driver=False, include_dashboard=False)
    try:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        parts = ray.data.from_items([{"part": part} for part in left], override_num_blocks=min(len(left), _BLOCKS))
        done = parts.map_batches(
            Actor, fn_constructor_args=(plan,), batch_size=1, batch_format="numpy", num_cpus=1, num_gpus=gpus or None,
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(left))),
        )  # fmt: skip
        for row in done.iter_rows():
            if row["error"]:
                raise BadInput(row["error"])
            yield int(row["part"]), int(row["process"])
    except ray.exceptions.RayError as error:
        raise AnyorderError(f"a worker failed: {first_line(error)}") from error
    finally:
        if own:
            ray.shutdown()


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise BadInput("--workers above 1 needs: pip install 'anyorder[ray]'") from error
    return ray
