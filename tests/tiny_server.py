"""A tiny model of prompts and answers, made-up, and a server that answers with it in a thread of this process."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anyorder.denoisers.classes import save_denoiser
from anyorder.denoisers.transformer import Transformer
from anyorder.files import write_json
from anyorder.serving.service import Limits, Service
from anyorder.tasks import make_task
from anyorder.zoo import load_denoiser

OPTIONS = {"problems": "addition", "length": 12, "longest": 64}


def save_tiny_words(folder: Path) -> Path:
    """A denoiser of sums in words with random weights."""
    task = make_task("words", **OPTIONS)
    torch.manual_seed(0)
    denoiser = Transformer.for_task(task, width=16, layers=1, heads=["everything"] * 2).eval()
    for parameter in denoiser.parameters():
        nn.init.normal_(parameter, std=0.6)
    save_denoiser(denoiser, folder)
    write_json(folder / "task.json", {"name": "words", "options": OPTIONS})
    return folder


def service(folder: Path, name: str = "tiny", orders: tuple[str, ...] = (), **limits: Any) -> Service:
    """A service of the model in a folder. Its attribute `gate` holds decoding back while it is not set."""
    denoiser = load_denoiser(folder, device="cpu")
    found = Service(denoiser, name, orders, Limits(**limits))
    found.gate = threading.Event()  # type: ignore[attr-defined]
    found.gate.set()  # type: ignore[attr-defined]

    def wait(*_: Any) -> None:
        found.gate.wait(20)  # type: ignore[attr-defined]

    denoiser.register_forward_pre_hook(wait)
    return found


@contextmanager
def serving(what: Service) -> Iterator[str]:
    """The address at which a service answers."""
    import uvicorn

    from anyorder.serving.app import make_app

    server = uvicorn.Server(uvicorn.Config(make_app(what), port=0, log_level="error", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


def until(true: Any, seconds: float = 10.0) -> None:
    """Wait until something holds, which it must."""
    last = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < last, "it never came true"
        time.sleep(0.005)
