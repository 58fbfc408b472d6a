"""The processes of a reproduction, of one thread each. They end with whoever started them, and leave checkpoints."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from typing import Any

import torch

from anyorder.errors import AnyorderError

Key = tuple[str, str]


def decode_groups(study: Any, groups: dict[Key, list[Any]], workers: int, told: Callable[[Key, int], None]) -> dict[Any, dict]:
    """What `study.decode` finds for every decoding of these groups, group by group, on several processes.

    Args:
        study: a `Study`.
        groups: decodings by task and model.
        workers: number of processes; 1 for this one alone.
        told: called after each group with its key and the number of decodings done.
    """
    found: dict[Any, dict] = {}
    if workers == 1:
        for key, group in groups.items():
            found |= _decode_group(study, group)
            told(key, len(found))
        return found
    context, others = multiprocessing.get_context("spawn"), multiprocessing.active_children()
    stop = context.Event()
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(stop,)) as pool:
        try:
            with _interrupts_blocked():  # workers inherit it: Ctrl-C waits until they can answer it
                futures = {pool.submit(_decode_group, study, group): key for key, group in groups.items()}
            for future in as_completed(futures):
                found |= future.result()
                told(futures[future], len(found))
        except BaseException:
            stop.set()  # first, so that no worker begins another model
            for worker in multiprocessing.active_children():
                if worker not in others and worker.pid is not None:
                    os.kill(worker.pid, signal.SIGINT)  # what is being trained is checkpointed
            pool.shutdown(cancel_futures=True)
            raise
    return found


def _decode_group(study: Any, group: list[Any]) -> dict[Any, dict]:
    if _stop is None:
        return {decoding: study.decode(decoding) for decoding in group}
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if _stop.is_set():  # asked after SIGINT raises, so that one of the two is seen
            raise KeyboardInterrupt
        return {decoding: study.decode(decoding) for decoding in group}
    except KeyboardInterrupt as error:
        raise AnyorderError("interrupted; the same command resumes from the last checkpoints") from error
    finally:
        signal.signal(signal.SIGINT, _leave_an_orphan)
        _leave_an_orphan()


_stop: Event | None = None
"""In a worker: set when the work is to end."""


def _start_worker(stop: Event) -> None:
    """One thread for computing, and one that ends this process with its parent, however that ends."""
    global _stop
    _stop = stop
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, _leave_an_orphan)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _leave_an_orphan(*_: object) -> None:
    parent = multiprocessing.parent_process()
    if parent is None or not parent.is_alive():
        os._exit(130)  # nobody is left to give more work, or to tell


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGINT)  # what is being trained is checkpointed


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Ctrl-C waits until the end of the block, here and in processes that are started in it (not on Windows)."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
