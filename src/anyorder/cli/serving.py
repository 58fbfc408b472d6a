"""The command that serves a model: serve."""

from typing import Annotated

import typer

from anyorder.cli.app import command
from anyorder.cli.options import ModelOptionsOption, RemoteCodeOption


@command()
def serve(
    model: Annotated[str, typer.Argument(help="shipped or fetched name, folder or hub id of a model of text, such as words")],
    host: Annotated[str, typer.Option("--host", help="address to listen at; 0.0.0.0 lets other machines in")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="port; 0 takes a free one")] = 8000,
    order: Annotated[
        list[str] | None,
        typer.Option(
            "--order",
            help="sampler that requests may name besides the registered orders, such as policy+undo@threshold:0.9, once or "
            "several times; the first one is used where a request names none",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="what clients call the model; by default the end of MODEL")] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="most tokens that an answer may ask for")] = 1024,
    max_rows: Annotated[int, typer.Option("--max-rows", min=1, help="answers that are decoded at once")] = 32,
    max_queue: Annotated[int, typer.Option("--max-queue", min=1, help="answers that may wait; more are refused")] = 256,
    max_body: Annotated[int, typer.Option("--max-body", min=1, help="most bytes of a request")] = 2**20,
    timeout: Annotated[float, typer.Option("--timeout", min=0.001, help="seconds until a request must be answered")] = 300.0,
    trust_remote_code: RemoteCodeOption = False,
    model_options: ModelOptionsOption = None,
) -> None:
    """Serve a model of text with OpenAI's interface and a page to watch it, until Ctrl-C."""
    from anyorder.serving import serve as run
    from anyorder.serving.service import Limits, Service, name_of
    from anyorder.session import key_values
    from anyorder.zoo import load_denoiser

    options = key_values(model_options, "--model-option")
    denoiser = load_denoiser(model, trust_remote_code=trust_remote_code, **options)
    limits = Limits(max_tokens=max_tokens, max_rows=max_rows, max_queue=max_queue, max_body=max_body, timeout=timeout)
    run(Service(denoiser, name or name_of(model), order or (), limits), host, port)
