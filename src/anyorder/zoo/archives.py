"""Archives of a package index, or at an address of their own: resumed where a download was cut off, and never longer than they
should be."""

import base64
import http.client
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from anyorder.errors import without_passwords
from anyorder.files import parse_json

Progress = Callable[[int, int], None]
"""Called with the bytes that are here and the bytes in all."""

FAILURES = (OSError, ValueError, KeyError, TypeError, AttributeError, http.client.HTTPException)
"""What goes wrong between two machines: no network, broken chunks, answers of another form."""

_CHUNK = 1 << 20
_LONGEST_PAGE = 64 << 20
_TIMEOUT = 60.0


def locate(project: str, file: str) -> str:
    """The address of a file on the package index (PIP_INDEX_URL, or PyPI), by its simple JSON interface (PEP 691).

    Raises:
        One of `FAILURES`.
    """
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")
    page = f"{index}/{project}/"
    shown = without_passwords(page)
    with _open(page, {"Accept": "application/vnd.pypi.simple.v1+json"}) as answer:
        text = answer.read(_LONGEST_PAGE + 1)
    if len(text) > _LONGEST_PAGE:
        raise ValueError(f"{shown} is longer than {_LONGEST_PAGE} bytes")
    try:
        files = parse_json(text)["files"]
        found = next((f["url"] for f in files if f["filename"] == file), None)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{shown} does not list its files in JSON (PEP 691)") from error
    if found is None:
        raise ValueError(f"{shown} has no {file}")
    return _with_login(urllib.parse.urljoin(page, found), page)


def download(address: str, path: Path, size: int, progress: Progress | None = None) -> None:
    """Write the file of an address; a part of it that is there already is not asked for again.

    Args:
        address: of the file.
        path: where it goes; what has come so far stays there if something goes wrong.
        size: bytes of the file.
        progress: called after each piece.

    Raises:
        One of `FAILURES`, also if the file has another size.
    """
    have = path.stat().st_size if path.is_file() else 0
    if have >= size:  # of something else
        path.unlink()
        have = 0
    with _open(address, {"Range": f"bytes={have}-"} if have else {}) as answer:
        if answer.status != 206:  # this server does not resume
            have = 0
        total = have + int(answer.headers.get("Content-Length") or size - have)
        if total != size:
            path.unlink(missing_ok=True)
            raise ValueError(f"the server's file has {total} bytes, not {size}")
        with open(path, "ab" if have else "wb") as file:
            while have <= size and (chunk := answer.read(min(_CHUNK, size + 1 - have))):
                have += len(chunk)
                file.write(chunk)
                if progress is not None:
                    progress(min(have, size), size)
    if have > size:
        path.unlink()
        raise ValueError(f"the server's file is longer than {size} bytes")
    if have < size:
        raise ConnectionError(f"{have} of {size} bytes came")


def _open(address: str, headers: Mapping[str, str]) -> Any:
    """The answer of a server. User and password of the address are sent to it alone, and are in no error of urllib."""
    parts = urllib.parse.urlsplit(address)
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{without_passwords(address)} is no address of the web (http:// or https://)")
    login, _, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(urllib.parse.urlunsplit(parts._replace(netloc=host)), headers=dict(headers))
    if login:
        word = base64.b64encode(urllib.parse.unquote(login).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {word}")
    try:
        return urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        raise ConnectionError(f"{host} answers {error.code} {error.reason}") from error


def _with_login(address: str, page: str) -> str:
    """An address with the user and password of the page that names it, if it is on the same server and has none."""
    parts, of_page = urllib.parse.urlsplit(address), urllib.parse.urlsplit(page)
    login, _, host = of_page.netloc.rpartition("@")
    if (parts.scheme, parts.netloc) == (of_page.scheme, host) and login:
        parts = parts._replace(netloc=of_page.netloc)
    return urllib.parse.urlunsplit(parts)
