"""A web server with OpenAI's interface: requests that wait are decoded together, and drafts are streamed."""

import errno
import socket
from typing import Any

from anyorder.errors import BadInput


def serve(service: Any, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM; then no new requests are taken, and those that are being answered are completed.

    Args:
        service: a `Service`.
        host, port: the address; port 0 is any free one.

    Raises:
        BadInput: the extra is not installed, or the address cannot be used.
    """
    from anyorder.serving.app import make_app

    try:
        import uvicorn
    except ImportError as error:
        raise BadInput("anyorder serve needs: pip install 'anyorder[serve]'") from error

    class Server(uvicorn.Server):
        """Says where it is, once it can be reached."""

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started and not self.should_exit:
                at = self.servers[0].sockets[0].getsockname()
                print(f"serving {service.name} at http://{f'[{at[0]}]' if ':' in at[0] else at[0]}:{at[1]}/", flush=True)

    limits = service.limits
    connections = 4 * (limits.max_rows + limits.max_queue)
    settings = uvicorn.Config(
        make_app(service), host=host, port=port, log_level="warning", access_log=False, timeout_keep_alive=10,
        timeout_graceful_shutdown=max(1, round(limits.shutdown_timeout)), limit_concurrency=connections,
        ws="none", server_header=False,
    )  # fmt: skip
    try:
        Server(settings).run([_listening(host, port)])
    except KeyboardInterrupt:
        pass  # uvicorn has shut down, and passes the signal on
    finally:
        service.engine.close()


def _listening(host: str, port: int) -> socket.socket:
    """The address, taken before uvicorn would log what is wrong with it.

    Raises:
        BadInput: it cannot be used.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        reason = "another program is there; --port 0 takes a free port" if taken else error.strerror
        raise BadInput(f"cannot serve at {host}:{port}: {reason}") from error
