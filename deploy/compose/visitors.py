"""Clients of all kinds, so that a dashboard has something to show: they ask, follow, resume, repeat, leave, and fail.

`python visitors.py URL [--visitors 6] [--visits 0] [--wait 0.3]`, with streamtee's fake as the upstream. 0 visits are
for ever; the wait is that between two visits of one visitor, on average, in seconds. The standard library alone.
"""

import argparse
import http.client
import json
import random
import threading
import time
from collections.abc import Callable
from contextlib import closing
from urllib.parse import urlsplit

CHAT = "/v1/chat/completions"
NATIVE = "/api/v1/services/aigc/text-generation/generation"
QUESTION = [{"role": "user", "content": "What is a reverse proxy?"}]
MODELS = ("qwen-plus", "qwen-max", "qwen-turbo")


class Visitor:
    """One client with a key of its own."""

    def __init__(self, url: str, number: int) -> None:
        self._server = urlsplit(url)
        self._key = f"Bearer visitor-{number}"
        self._random = random.Random(number)

    def visit(self) -> None:
        """Do one thing that clients do."""
        kinds, weights = zip(*VISITS.items(), strict=True)
        (kind,) = self._random.choices(kinds, weights)
        kind(self)

    def wait(self, mean_s: float) -> None:
        time.sleep(mean_s * self._random.expovariate(1))

    def ask(
        self, fault: str = "", *, path: str = CHAT, stream: bool = True, **headers: str
    ) -> http.client.HTTPResponse:
        """Ask for an answer; return the response, unread."""
        model = self._random.choice(MODELS)
        chat = {"model": model, "stream": stream, "messages": QUESTION, "stream_options": {"include_usage": True}}
        native = {"model": model, "input": {"messages": QUESTION}, "parameters": {"incremental_output": True}}
        named = {"Content-Type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
        if fault:
            named["Fake-Fault"] = fault
        return self.send("POST", path, json.dumps(chat if path == CHAT else native), named)

    def send(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> http.client.HTTPResponse:
        """Send a request on a connection of its own, which closes with the response."""
        connection = http.client.HTTPConnection(self._server.hostname or "", self._server.port, timeout=60)
        connection.request(method, path, body, {"Authorization": self._key, "Connection": "close", **headers})
        return connection.getresponse()

    def read_stream(self) -> None:
        with closing(self.ask()) as answer:
            answer.read()

    def think(self) -> None:
        with closing(self.ask("", X_DashScope_SSE="enable", path=NATIVE)) as answer:
            answer.read()

    def ask_without_streaming(self) -> None:
        with closing(self.ask(stream=False)) as answer:
            answer.read()

    def follow(self) -> None:
        """Have a second client come late, and resume after it broke off."""
        with closing(self.ask()) as answer:
            place = answer.headers.get("Location")
            answer.read(600)
            if place is not None:
                with closing(self.send("GET", place, None, {})) as follower:
                    follower.read(900)
                with closing(self.send("GET", place + "?mode=coalesced&after=3", None, {})) as follower:
                    follower.read()
            answer.read()

    def ask_twice(self) -> None:
        """Send the same again, as a client does that has lost its response."""
        key = f"{self._random.random()}"
        for _ in range(2):
            with closing(self.ask_same(key)) as answer:
                answer.read()

    def ask_same(self, key: str) -> http.client.HTTPResponse:
        body = {"model": MODELS[0], "stream": True, "messages": QUESTION, "stream_options": {"include_usage": True}}
        return self.send("POST", CHAT, json.dumps(body), {"Content-Type": "application/json", "Idempotency-Key": key})

    def leave(self) -> None:
        with closing(self.ask()) as answer:
            answer.read(400)

    def meet_a_fault(self) -> None:
        """Have the upstream break off, fail, refuse, or say nothing for a while."""
        fault = self._random.choice(
            (
                "reset; after=1",
                "reset; after=5",
                "error_inside; after=6",
                "status; status=429",
                "stall; after=4; seconds=2",
            )
        )
        try:
            with closing(self.ask(fault)) as answer:
                answer.read()
        except (http.client.HTTPException, ConnectionError):
            pass  # as it should be

    def mistake(self) -> None:
        with closing(self.ask(Stream_Mode="none")) as answer:
            answer.read()


VISITS: dict[Callable[[Visitor], None], int] = {
    Visitor.read_stream: 8,
    Visitor.think: 2,
    Visitor.ask_without_streaming: 2,
    Visitor.follow: 4,
    Visitor.ask_twice: 2,
    Visitor.leave: 2,
    Visitor.meet_a_fault: 2,
    Visitor.mistake: 1,
}


def come(url: str, number: int, visits: int, wait_s: float) -> None:
    """Visit so many times, 0 for ever; a proxy that is not there yet, or is away, is waited for."""
    visitor = Visitor(url, number)
    left = visits or float("inf")
    while left:
        try:
            visitor.visit()
            left -= 1
        except OSError as error:
            print(f"visitor {number}: {error}", flush=True)
            time.sleep(1)
        visitor.wait(wait_s)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("url")
    arguments.add_argument("--visitors", type=int, default=6)
    arguments.add_argument("--visits", type=int, default=0)
    arguments.add_argument("--wait", type=float, default=0.3)
    given = arguments.parse_args()
    threads = [
        threading.Thread(target=come, args=(given.url, number, given.visits, given.wait))
        for number in range(given.visitors)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
