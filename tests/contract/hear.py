"""The Python SDKs as a user calls them, in a process of their own: each line read is a list of questions, each line
written is what was heard for them.

Runs in any Python that has openai and dashscope, of any major, so it imports nothing of this project. What an SDK
makes of an answer is told field by field, an exception by its class, status and code.
"""

import contextlib
import io
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import dashscope
import httpx
import openai
import requests
from dashscope.api_entities.dashscope_response import DashScopeAPIResponse
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import ResponseStreamEvent

try:
    import httpx2  # what openai-python 3 stands on
except ImportError:
    httpx2 = httpx

KEY = "sk-a-real-client"
MESSAGES = [{"role": "user", "content": "说点什么"}]
OF_OPENAI = (openai.OpenAIError, httpx.HTTPError, httpx2.HTTPError, ValueError)
OF_DASHSCOPE = (requests.RequestException, ValueError, TypeError)
"""What the SDKs raise of an answer; DashScope's raises a TypeError of an `event: error` with a space."""


def failed(error: Exception) -> dict[str, Any]:
    """Tell of an exception; the texts of those that no server caused name connections, so they are left out."""
    told = {"class": type(error).__name__}
    if isinstance(error, openai.APIError):
        told |= {"status": getattr(error, "status_code", None), "code": error.code, "message": error.message}
    return told


class Said:
    """What the OpenAI SDK was told by one answer, all chunks together."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.finish: dict[int, str] = {}
        self.usage: Any = None
        self.chunks = 0

    def add(self, answer: Any) -> None:
        self.chunks += 1
        self.usage = answer.usage.model_dump() if getattr(answer, "usage", None) else self.usage
        for choice in answer.choices or ():
            said = getattr(choice, "delta", None) or choice.message
            self._join(choice.index, "content", said.content)
            self._join(choice.index, "reasoning", getattr(said, "reasoning_content", None))
            for place, call in enumerate(said.tool_calls or ()):
                at = f"{choice.index} call {getattr(call, 'index', place)}"
                self._join(at, "id", call.id)
                self._join(at, "name", call.function.name)
                self._join(at, "arguments", call.function.arguments)
            self.finish[choice.index] = choice.finish_reason or self.finish.get(choice.index, "")

    def _join(self, at: Any, what: str, text: "str | None") -> None:
        if text:
            self.texts[f"{at} {what}"] = self.texts.get(f"{at} {what}", "") + text

    def told(self) -> dict[str, Any]:
        return {"texts": self.texts, "finish": self.finish, "usage": self.usage, "chunks": self.chunks}


def hear_openai(url: str, *, ident: str = "", query: Any = None, headers: Any = None, **body: Any) -> dict[str, Any]:
    """Ask for a chat completion, or follow the stream `ident` with the SDK's own reader of streams."""
    said, error = Said(), None
    transport = openai.DefaultHttpxClient(verify=False)  # there is no TLS here, and certificates take 50 ms to read
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=10, http_client=transport) as client:
        try:
            for chunk in _followed(client, ident, query) if ident else _asked(client, headers, **body):
                said.add(chunk)
        except OF_OPENAI as raised:
            error = failed(raised)
    return {**said.told(), "error": error}


def _asked(client: openai.OpenAI, headers: Any, *, stream: bool = False, **body: Any) -> Any:
    create: Any = client.chat.completions.create
    asked = {"model": "qwen-plus", "messages": MESSAGES}
    answer = create(**asked, stream=stream, extra_body=body, extra_headers=headers)
    return answer if stream else [answer]


def _followed(client: openai.OpenAI, ident: str, query: Any) -> Any:
    return client.get(
        f"/streams/{ident}",
        cast_to=ChatCompletionChunk,
        options={"params": query or {}},
        stream=True,
        stream_cls=openai.Stream[ChatCompletionChunk],
    )


def hear_responses(
    url: str, *, how: str = "create", ident: str = "", query: Any = None, headers: Any = None, **body: Any
) -> dict[str, Any]:
    """Ask for a response: its events as they come, or as the SDK's own helper adds them up; or follow a stream."""
    events: list[Any] = []
    final = error = None
    asked = {"model": "qwen-plus", "input": "说点什么", "extra_headers": headers, **body}
    transport = openai.DefaultHttpxClient(verify=False)
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=10, http_client=transport) as client:
        try:
            if how == "helper":
                asked.pop("stream")
                with client.responses.stream(**asked) as stream:
                    events.extend(map(dumped, stream))
                    final = dumped(stream.get_final_response())
            elif ident:
                cast: Any = {"cast_to": ResponseStreamEvent, "stream_cls": openai.Stream[ResponseStreamEvent]}
                options: Any = {"params": query or {}}
                events.extend(map(dumped, client.get(f"/streams/{ident}", options=options, stream=True, **cast)))
            else:
                answer: Any = client.responses.create(**asked)
                events.extend(map(dumped, answer if asked.get("stream") else [answer]))
        except (*OF_OPENAI, RuntimeError, AttributeError, IndexError, AssertionError) as raised:
            error = failed(raised)
    return {"events": events, "final": final, "error": error}


def dumped(answer: Any) -> Any:
    """Return what an object of the SDK holds, at once: the helper adds up within what it has given out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return json.loads(answer.to_json())


def hear_dashscope(url: str, *, kind: str = "Generation", **asked: Any) -> dict[str, Any]:
    """Ask DashScope's own API; every answer is told."""
    dashscope.base_http_api_url = f"{url}/api/v1"
    answers: list[list[Any]] = []
    error = None
    named = {"model": "qwen-plus", "messages": MESSAGES} if kind != "Application" else {}
    try:
        answer = getattr(dashscope, kind).call(api_key=KEY, **{**named, **asked})
        answers.extend(map(told, answer if asked.get("stream") else [answer]))
    except OF_DASHSCOPE as raised:
        error = failed(raised)
    return {"answers": answers, "error": error}


def hear_client(url: str, *, protocol: str, model: str = "qwen-plus", **asked: Any) -> dict[str, Any]:
    """Ask with the client that is new in dashscope 2, streamed, in one of the protocols it speaks."""
    from dashscope.v2.errors import DashScopeError

    chunks: list[Any] = []
    error = None
    path = {"native": "/api/v1", "openai": "/compatible-mode/v1"}[protocol]
    client = dashscope.Client(
        api_key=KEY, base_url=url + path, protocol=protocol, http_client=httpx.Client(verify=False)
    )
    try:
        answer = client.chat.completions.create(model=model, messages=MESSAGES, stream=True, **asked)
        chunks.extend(json.loads(chunk.model_dump_json(exclude={"created"})) for chunk in answer)
    except (DashScopeError, httpx.HTTPError) as raised:
        error = {"class": type(raised).__name__, "status": getattr(raised, "status_code", None), "text": str(raised)}
    return {"chunks": chunks, "error": error}


def told(answer: Any) -> list[Any]:
    """Return what one answer says, as text at once: the SDK adds up within the objects that it has given out."""
    return [answer.status_code, answer.code, answer.message, json.dumps(answer.output), json.dumps(answer.usage)]


def hear_script(url: str, *, script: str, origin: str) -> dict[str, Any]:
    """Run a script as it stands, with nothing changed but the origin of its base URL; return what it printed."""
    source = Path(script).read_text(encoding="utf-8")
    assert origin in source, f"{script} does not name {origin}"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source.replace(origin, url), script, "exec"), {"__name__": "__main__"})
    return {"printed": printed.getvalue()}


def hear_sum(*, dialect: str, documents: list[Any]) -> dict[str, Any]:
    """Return what an SDK itself adds the events of a stream up to, with no server."""
    if dialect == "openai":
        state = ChatCompletionStreamState()
        for document in documents:
            state.handle_chunk(ChatCompletionChunk.construct(**document))
        return json.loads(state.current_completion_snapshot.to_json())
    answers = (DashScopeAPIResponse(200, output=one["output"], usage=one["usage"]) for one in documents)
    *_, last = dashscope.Generation._merge_generation_response(answers)
    return json.loads(json.dumps({"output": last.output, "usage": last.usage}))


HEAR = {
    "openai": hear_openai,
    "responses": hear_responses,
    "dashscope": hear_dashscope,
    "client": hear_client,
    "script": hear_script,
    "sum": hear_sum,
}


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)  # dashscope logs what it raises
    print(json.dumps([openai.__version__, dashscope.version.__version__]), flush=True)
    for line in sys.stdin:
        heard = [HEAR[question.pop("sdk")](**question) for question in json.loads(line)]
        print(json.dumps(heard), flush=True)


main()
