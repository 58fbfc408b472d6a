"""`anyorder serve`: OpenAI's client, streams, batches that change nothing, limits, what is refused, and what is given up."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import torch

import commands
from anyorder.decoding.loop import decode
from anyorder.decoding.sampler import Sampler
from anyorder.errors import BadInput
from anyorder.serving.service import Service, name_of
from anyorder.serving.texts import Texts
from anyorder.zoo import load_denoiser
from conftest import HashDenoiser

pytest.importorskip("uvicorn", reason="the tests of `anyorder serve` need: pip install 'anyorder[serve]'")
openai = pytest.importorskip("openai", reason="the tests of `anyorder serve` need the client: pip install openai")

from tiny_server import save_tiny_words, service, serving, until  # noqa: E402

QUESTION = [{"role": "user", "content": "What is 12 + 34?"}]
PROMPT = "What is 12 + 34?\nAnswer:\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_words(tmp_path_factory.mktemp("served") / "tiny")


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[tuple[Service, str]]:
    orders = ("entropy", "confidence+p2:0.3", "margin@blocks:4@cache:dual")
    what = service(folder, orders=orders, max_tokens=39, max_rows=8, max_queue=24, max_body=5000)
    with serving(what) as address:
        yield what, address


@pytest.fixture
def client(served: tuple[Service, str]) -> Any:
    return openai.OpenAI(base_url=f"{served[1]}/v1", api_key="none", max_retries=0)


def post(address: str, body: Any, path: str = "/v1/completions", **headers: str) -> tuple[int, Any]:
    """Status and JSON of an answer."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=20)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", path, data, {"Content-Type": "application/json", **headers})
    response = connection.getresponse()
    found = response.status, json.loads(response.read())
    connection.close()
    return found


def idle(what: Service) -> None:
    until(lambda: what.engine.load == {"running": 0, "waiting": 0})


def test_a_chat_is_answered_as_decode_would(served: tuple[Service, str], client: Any) -> None:
    said = client.chat.completions.create(model="tiny", messages=QUESTION, extra_body={"order": "margin", "steps": 5})
    denoiser, texts = served[0].denoiser, served[0].texts
    tokens = torch.tensor([[*texts.chat(QUESTION).before, *[denoiser.mask_token_id] * 12]])
    alone = decode(denoiser, tokens, Sampler("margin", steps=5), ends=texts.ends)
    assert said.choices[0].message.content == texts.text(alone.tokens[0, -12:].tolist())
    assert said.usage.prompt_tokens == tokens.shape[1] - 12
    assert said.model_extra["anyorder"]["steps"] == [int(alone.nfe[0])]


def test_the_parts_of_a_stream_are_the_whole(client: Any) -> None:
    for asked in ({"temperature": 0.0}, {"temperature": 2.0, "seed": 3}, {"stop": ["7", "ab"], "temperature": 2.0, "seed": 9}):
        whole = client.completions.create(model="tiny", prompt=PROMPT, **asked)
        events = list(client.completions.create(
            model="tiny", prompt=PROMPT, stream=True, stream_options={"include_usage": True}, **asked
        ))  # fmt: skip
        assert "".join(event.choices[0].text for event in events if event.choices) == whole.choices[0].text
        assert events[-2].choices[0].finish_reason == whole.choices[0].finish_reason
        assert events[-1].usage == whole.usage


def test_drafts_show_every_token_once_it_is_committed(client: Any) -> None:
    asked = {"order": "random", "seed": 5}
    events = list(client.completions.create(model="tiny", prompt=PROMPT, stream=True, max_tokens=9, extra_body=asked))
    seen: set[int] = set()
    for event in events:
        own = event.model_extra["anyorder"]
        assert len(own["draft"]) == 9 and not seen & set(own["committed"])
        seen |= set(own["committed"])
        assert all(own["draft"][at] is not None for at in seen)
        if event.choices[0].finish_reason is None:
            assert {at for at, piece in enumerate(own["draft"]) if piece is not None} == seen
    assert [event.model_extra["anyorder"]["step"] for event in events] == list(range(1, len(events) + 1))
    without = client.completions.create(model="tiny", prompt=PROMPT, stream=True, extra_body={**asked, "drafts": False})
    assert all("draft" not in event.model_extra["anyorder"] for event in without)


def test_a_remasker_sends_text_when_it_is_final(client: Any) -> None:
    asked = {"order": "confidence+p2:0.3", "steps": 12, "seed": 1}
    events = list(client.completions.create(model="tiny", prompt=PROMPT, stream=True, extra_body=asked))
    assert len(events) > 1 and not any(event.choices[0].text for event in events[:-1])


def test_rows_share_passes_and_change_nothing(served: tuple[Service, str]) -> None:
    """Of other lengths, seeds, budgets and samplers, sent at once or one after the other: the same answers."""
    what, address = served
    bodies = [
        {"prompt": f"What is {n} + {7 * n}?\nAnswer:\n", "seed": n, "max_tokens": 5 + n, "temperature": [0.0, 1.5][n % 2],
         **[{}, {"steps": 3}, {"threshold": 0.5}][n % 3]}
        for n in range(20)
    ]  # fmt: skip
    alone = [post(address, body)[1]["choices"] for body in bodies]
    calls: list[int] = []
    hook = what.denoiser.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))  # type: ignore[attr-defined]
    what.gate.clear()  # type: ignore[attr-defined]
    with ThreadPoolExecutor(20) as pool:
        together = [pool.submit(post, address, body) for body in bodies]
        until(lambda: sum(what.engine.load.values()) == 20 or what.engine.load["waiting"] >= 12)
        what.gate.set()  # type: ignore[attr-defined]
        assert [one.result()[1]["choices"] for one in together] == alone
    hook.remove()
    assert max(calls) >= 3, "rows were decoded together"
    idle(what)


def test_batches_with_a_cache_are_decoded_side_by_side(served: tuple[Service, str]) -> None:
    what, address = served
    body = {"prompt": PROMPT, "order": "margin@blocks:4@cache:dual", "max_tokens": 12}
    alone = post(address, body)[1]["choices"][0]["text"]
    with ThreadPoolExecutor(6) as pool:
        found = [pool.submit(post, address, {**body, "seed": number}) for number in range(6)]
        assert [one.result()[1]["choices"][0]["text"] for one in found] == [alone] * 6
    idle(what)


def test_choices_have_seeds_of_their_own(client: Any) -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": [PROMPT, "7"], "temperature": 3.0}
    said = client.completions.create(**asked, n=2, seed=11)
    assert said.model_extra["anyorder"]["seeds"] == [11, 12, 13, 14]
    assert [choice.index for choice in said.choices] == [0, 1, 2, 3]
    assert said.choices[0].text != said.choices[1].text
    one = client.completions.create(**{**asked, "prompt": "7"}, seed=14)
    assert one.choices[0].text == said.choices[3].text
    streamed = client.completions.create(**asked, n=2, seed=11, stream=True)
    texts = ["", "", "", ""]
    for event in streamed:
        texts[event.choices[0].index] += event.choices[0].text
    assert texts == [choice.text for choice in said.choices]


def test_a_stop_text_ends_the_answer_before_the_budget(client: Any) -> None:
    asked: dict[str, Any] = {
        "model": "tiny",
        "prompt": PROMPT,
        "extra_body": {"order": "left_to_right"},
        "temperature": 3.0,
        "seed": 2,
    }
    whole = client.completions.create(**asked)
    assert len(whole.choices[0].text) > 4
    stop = whole.choices[0].text[2:4]
    cut = client.completions.create(**asked, stop=stop)
    assert cut.choices[0].text == whole.choices[0].text.partition(stop)[0]
    assert cut.choices[0].finish_reason == "stop"
    assert cut.usage.completion_tokens == len(whole.choices[0].text.partition(stop)[0]) + 2 < whole.usage.completion_tokens
    assert cut.model_extra["anyorder"]["steps"][0] < whole.model_extra["anyorder"]["steps"][0]


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"prompt": 3}, 400, "prompt: give a text"),
        ({"prompt": []}, 400, "give 1 to 16 prompts"),
        ({"prompt": "☃"}, 400, "'☃' at position 1"),
        ({"prompt": "a_b"}, 400, "use suffix"),
        ({"prompt": [5, 1000]}, 400, "the token 1000; the model has 99 tokens"),
        ({"prompt": "a" * 64}, 400, "the model takes 64"),
        ({"max_tokens": 0}, 400, "max_tokens must be greater than or equal to 1"),
        ({"max_tokens": 40}, 400, "this server generates 39 at most"),
        ({"max_tokens": "9"}, 400, "max_tokens must be a valid integer"),
        ({"n": 17}, 400, "more than 16 choices"),
        ({"temperature": -1}, 400, "temperature must be greater than or equal to 0"),
        ({"top_p": 0.5}, 400, "no meaning without a temperature"),
        ({"order": "os:system"}, 400, "order 'os:system' is unknown; use one of entropy"),
        ({"order": "oracle"}, 400, "order 'oracle' is unknown"),
        ({"threshold": 2}, 400, "threshold must be less than or equal to 1"),
        ({"steps": 2, "block_length": 3}, 400, "steps 2 are too few for 4 blocks of 3"),
        ({"seed": -1}, 400, "seed must be greater than or equal to 0"),
        ({"stop": ["a"] * 5}, 400, "stop: give a text"),
        ({"logprobs": 3}, 400, "logprobs is not supported"),
        ({"wings": 2}, 400, "wings is no field of this request"),
        ({"model": "gpt"}, 404, "'gpt' is not served here: this is 'tiny'"),
        ([], 400, "a JSON object"),
        (b"{", 400, "not JSON"),
        (b"[" * 4000, 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b'{"prompt": "' + b"a" * 6000 + b'"}', 413, "more than 5000 bytes"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_the_form_of_openai(
    served: tuple[Service, str], change: Any, status: int, said: str
) -> None:
    body = {"prompt": PROMPT, **change} if isinstance(change, dict) else change
    for stream in ({}, {"stream": True}) if isinstance(body, dict) else ({},):
        found, answer = post(served[1], {**body, **stream} if isinstance(body, dict) else body)
        assert found == status and said in answer["error"]["message"], answer
        assert set(answer["error"]) == {"message", "type", "param", "code"}
    idle(served[0])


def test_neutral_fields_of_openai_are_taken(client: Any) -> None:
    said = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": [{"type": "text", "text": "What is 1 + 2?"}]}], logprobs=False,
        presence_penalty=0, frequency_penalty=0, user="me", n=1, max_completion_tokens=4, response_format={"type": "text"},
    )  # fmt: skip
    assert said.usage.completion_tokens <= 4


def test_chats_that_the_model_was_not_taught_are_refused(served: tuple[Service, str]) -> None:
    for messages, said in (
        ([], "messages: give at least one"),
        ([{"role": "user"}], "messages: give at least one"),
        ([*QUESTION, {"role": "assistant", "content": "46"}, *QUESTION], "one question at a time"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "only text is read"),
    ):
        status, answer = post(served[1], {"messages": messages}, "/v1/chat/completions")
        assert status == 400 and said in answer["error"]["message"]


def test_other_content_and_other_addresses_are_refused(served: tuple[Service, str]) -> None:
    assert post(served[1], b"{}", **{"Content-Type": "text/plain"})[0] == 415
    status, answer = post(served[1], {}, "/v1/embeddings")
    assert status == 404 and "the routes are /v1/models" in answer["error"]["message"]


def test_a_client_that_leaves_frees_its_rows(served: tuple[Service, str], client: Any) -> None:
    what, address = served
    host, port = address.removeprefix("http://").split(":")
    for stream in (True, False):
        what.gate.clear()  # type: ignore[attr-defined]
        data = json.dumps({"prompt": PROMPT, "stream": stream, "n": 12}).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        connection = socket.create_connection((host, int(port)))
        connection.sendall(head.encode() + data)
        until(lambda: what.engine.load == {"running": 8, "waiting": 4})
        connection.close()
        until(lambda: what.engine.load["waiting"] == 0)
        what.gate.set()  # type: ignore[attr-defined]
        idle(what)
    assert client.completions.create(model="tiny", prompt=PROMPT).choices


def test_a_full_queue_refuses_and_goes_on(served: tuple[Service, str]) -> None:
    what, address = served
    what.gate.clear()  # type: ignore[attr-defined]
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(post, address, {"prompt": PROMPT, "n": 8})
        until(lambda: what.engine.load["running"] == 8)
        waiting = [pool.submit(post, address, {"prompt": PROMPT, "n": 12}) for _ in range(2)]
        until(lambda: what.engine.load["waiting"] == 24)
        status, answer = post(address, {"prompt": PROMPT})
        assert status == 429 and answer["error"]["code"] == "queue_full"
        what.gate.set()  # type: ignore[attr-defined]
        assert [one.result()[0] for one in (first, *waiting)] == [200] * 3
    idle(what)


def test_an_error_while_decoding_hits_its_own_batch_only(served: tuple[Service, str], caplog: pytest.LogCaptureFixture) -> None:
    what, address = served
    broken = Sampler(lambda state, prediction: 1 / 0)  # type: ignore[arg-type, return-value]
    what.samplers["broken"] = broken
    what.gate.clear()  # type: ignore[attr-defined]
    with ThreadPoolExecutor(4) as pool:
        good, bad = ({"prompt": PROMPT, "order": order} for order in ("entropy", "broken"))
        found = [pool.submit(post, address, body) for body in (good, bad, good)]
        until(lambda: sum(what.engine.load.values()) == 3)
        what.gate.set()  # type: ignore[attr-defined]
        assert [one.result()[0] for one in found] == [200, 500, 200]
    del what.samplers["broken"]
    idle(what)


def test_time_runs_out(folder: Path) -> None:
    what = service(folder, timeout=0.2, read_timeout=0.2)
    with serving(what) as address:
        what.gate.clear()  # type: ignore[attr-defined]
        status, answer = post(address, {"prompt": PROMPT})
        assert status == 504 and answer["error"]["code"] == "timeout"
        streamed = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.APIError, match="took too long"):
            list(streamed.completions.create(model="tiny", prompt=PROMPT, stream=True))
        what.gate.set()  # type: ignore[attr-defined]
        idle(what)
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
            )
            assert b" 408 " in slow.recv(200)


def test_a_shutdown_completes_what_is_answered_and_refuses_the_rest(folder: Path) -> None:
    what = service(folder)
    with ThreadPoolExecutor(2) as pool:
        with serving(what) as address:
            what.gate.clear()  # type: ignore[attr-defined]
            running = pool.submit(post, address, {"prompt": PROMPT})
            until(lambda: what.engine.load["running"] == 1)
            threading.Timer(0.1, what.gate.set).start()  # type: ignore[attr-defined]
        assert running.result()[0] == 200
    assert not what.engine._thread.is_alive()
    with pytest.raises(Exception, match="shutting down"):
        what.engine.submit([])


def test_the_models_and_the_page(served: tuple[Service, str], client: Any) -> None:
    (model,) = client.models.list().data
    assert model.id == "tiny" and model.model_extra["anyorder"]["default_order"] == "entropy"
    assert "oracle" not in model.model_extra["anyorder"]["orders"]
    connection = http.client.HTTPConnection(served[1].removeprefix("http://"))
    connection.request("GET", "/")
    page = connection.getresponse()
    text = page.read().decode()
    connection.close()
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http" not in text.replace("http-equiv", ""), "no outside resources"


def test_what_is_no_model_of_text_is_refused() -> None:
    with pytest.raises(BadInput, match="sudoku4 is a model for sudoku, not for text"):
        Texts(load_denoiser("sudoku4"))
    with pytest.raises(BadInput, match="this denoiser has no tokenizer"):
        Texts(HashDenoiser())


def test_clients_see_no_folders() -> None:
    assert name_of("/home/me/secret/model") == "model" and name_of("owner/name") == "name" and name_of("words") == "words"


def test_without_the_extra_there_is_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("starlette", "uvicorn")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "anyorder.serving.app", raising=False)
    for name in ("starlette", "starlette.applications", "uvicorn"):
        monkeypatch.setitem(sys.modules, name, None)
    commands.refused(commands.run("serve", folder), "anyorder serve needs: pip install 'anyorder[serve]'")


def test_an_address_that_is_taken_is_refused(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = commands.run("serve", folder, "--port", str(port))
        commands.refused(said, f"cannot serve at 127.0.0.1:{port}: another program is there")
        assert said.stderr.count("\n") == 1
    commands.refused(commands.run("serve", folder, "--host", "256.0.0.1"), "cannot serve at 256.0.0.1:8000: ")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 0), ("SIGTERM", -signal.SIGTERM)])
def test_a_signal_lets_the_command_complete_its_answers(folder: Path, name: str, code: int) -> None:
    command = [sys.executable, "-m", "anyorder", "serve", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().split()[-1].rstrip("/")
        answers: list[tuple[int, Any]] = []
        body = {"prompt": "7" * 20, "n": 16, "max_tokens": 40, "temperature": 1.0}
        asking = threading.Thread(target=lambda: answers.append(post(address, body)))
        asking.start()
        until(lambda: json.loads(urlopen(f"{address}/health").read())["running"] > 0)
        server.send_signal(getattr(signal, name))
        asking.join(20)
        _, errors = server.communicate(timeout=20)
    assert [status for status, _ in answers] == [200]
    assert (server.returncode, errors) == (code, "")
