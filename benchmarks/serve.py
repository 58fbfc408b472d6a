"""`anyorder serve` under load: many clients for a minute. Is every answer what it is alone? Does the memory stay flat?

    python benchmarks/serve.py --clients 50 --seconds 60

The server runs in a process of its own, with the shipped denoiser `words`. Every client sends one request after the other: most
of them questions from a list (sums of other lengths, seeds, temperatures, orders and budgets, a half of them streamed), one in
ten is given up on the way, one in twenty is nonsense. Before the minute each question is asked once, alone.
"""

import argparse
import http.client
import json
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from typing import Any

import psutil

ORDERS = ("confidence", "margin", "entropy", "left_to_right", "random")


def questions(count: int) -> list[dict[str, Any]]:
    """Requests of every kind."""
    draw = random.Random(0)
    found = []
    for number in range(count):
        a, b = (draw.randrange(10 ** draw.randint(2, 5), 10**6) for _ in range(2))
        body: dict[str, Any] = {"messages": [{"role": "user", "content": f"What is {a} + {b}?"}], "seed": number}
        body |= {"order": ORDERS[number % 5], "steps": draw.choice([6, 8, 12]), "temperature": [0.0, 0.8][number % 2]}
        found.append(body | ({"threshold": 0.9} if number % 3 == 0 else {}))
    return found


NONSENSE: list[tuple[Any, int]] = [
    (b"{", 400), ({"messages": []}, 400), ({"messages": [{"role": "user", "content": "\u2603"}]}, 400),
    ({"messages": [{"role": "user", "content": "7" * 400}]}, 400), ({"prompt": "?"}, 400),
    (b'{"a": "' + b"a" * 2**21 + b'"}', 413),
]  # fmt: skip


class Client:
    """One client, and what happened to it."""

    def __init__(self, port: int, seed: int) -> None:
        self.port, self.draw = port, random.Random(seed)
        self.seconds: list[float] = []
        self.wrong: list[str] = []
        self.counts = {"answered": 0, "streamed": 0, "given up": 0, "refused": 0, "tokens": 0}

    def ask(self, body: Any, leave: bool = False) -> tuple[int, Any]:
        """Status and answer; None where the client left after the first piece of a stream."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            connection.request("POST", "/v1/chat/completions", data, {"Content-Type": "application/json"})
            response = connection.getresponse()
            if leave:
                return response.status, response.readline() and None
            return response.status, response.read().decode()
        except (BrokenPipeError, ConnectionResetError):  # refused before all of a large body was sent
            return 413, None
        finally:
            connection.close()

    def text(self, body: dict[str, Any]) -> str:
        """The text of an answer, whole or in pieces."""
        status, answer = self.ask(body)
        if status != 200:
            raise RuntimeError(f"{status}: {answer}")
        if not body.get("stream"):
            found = json.loads(answer)
            self.counts["tokens"] += found["usage"]["completion_tokens"]
            return str(found["choices"][0]["message"]["content"])
        events = [json.loads(line) for line in re.findall(r"^data: (\{.*)$", answer, re.MULTILINE)]
        return "".join(event["choices"][0]["delta"]["content"] for event in events)

    def run(self, asked: list[dict[str, Any]], known: list[str], until: float) -> None:
        """Ask until the time is over."""
        while time.monotonic() < until:
            number, dice = self.draw.randrange(len(asked)), self.draw.random()
            try:
                if dice < 0.05:
                    body, status = self.draw.choice(NONSENSE)
                    found = self.ask(body)[0]
                    self.counts["refused"] += 1
                    if found != status:
                        self.wrong.append(f"nonsense was answered with {found}, not {status}")
                elif dice < 0.15:
                    self.ask({**asked[number], "stream": True}, leave=True)
                    self.counts["given up"] += 1
                else:
                    began, stream = time.monotonic(), self.draw.random() < 0.5
                    text = self.text({**asked[number], "stream": stream, "drafts": self.draw.random() < 0.5})
                    self.seconds.append(time.monotonic() - began)
                    self.counts["answered"] += 1
                    self.counts["streamed"] += stream
                    if text != known[number]:
                        self.wrong.append(f"question {number}: {text!r} together, {known[number]!r} alone")
            except Exception as error:
                self.wrong.append(f"{type(error).__name__}: {error}")


def measure(port: int, process: psutil.Process, clients: int, seconds: float) -> None:
    """Ask each question alone, then all clients at once, and print what was seen."""
    asked, alone = questions(60), Client(port, 0)
    began = time.monotonic()
    known = [alone.text(body) for body in asked]
    rate = len(asked) / (time.monotonic() - began)
    crowd = [Client(port, number + 1) for number in range(clients)]
    until = time.monotonic() + seconds
    threads = [threading.Thread(target=client.run, args=(asked, known, until)) for client in crowd]
    for thread in threads:
        thread.start()
    memory = []
    while time.monotonic() < until:
        memory.append(process.memory_info().rss / 2**20)
        time.sleep(seconds / 12)
    for thread in threads:
        thread.join()
    time.sleep(1)
    total = {name: sum(client.counts[name] for client in crowd) for name in crowd[0].counts}
    waited = sorted(second for client in crowd for second in client.seconds)
    wrong = [one for client in crowd for one in client.wrong]
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/health")
    print(f"one client, alone: {rate:.1f} answers/s")
    print(
        f"{clients} clients, {seconds:g} s: "
        + ", ".join(f"{count} {name}" for name, count in total.items() if name != "tokens")
    )
    print(f"{total['answered'] / seconds:.1f} answers/s; seconds per answer: median {statistics.median(waited):.2f}, "
          f"95 % {waited[int(0.95 * len(waited))]:.2f}, longest {waited[-1]:.2f}")  # fmt: skip
    print(f"errors and other texts than alone: {len(wrong)}", *wrong[:5], sep="\n  ")
    print("memory of the server, MiB: " + ", ".join(f"{value:.0f}" for value in [*memory, process.memory_info().rss / 2**20]))
    print(f"afterwards: {connection.getresponse().read().decode()}, {process.num_threads()} threads, "
          f"{len(process.net_connections())} sockets, {process.num_fds()} files")  # fmt: skip


def main() -> None:
    """Start a server, measure, stop it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--model", default="words")
    given = parser.parse_args()
    command = [sys.executable, "-m", "anyorder", "serve", given.model, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            found = re.search(r":(\d+)/", server.stdout.readline())
            assert found, "the server did not start"
            measure(int(found[1]), psutil.Process(server.pid), given.clients, given.seconds)
        finally:
            server.terminate()
    print(f"the server ended with code {server.returncode}")


if __name__ == "__main__":
    main()
