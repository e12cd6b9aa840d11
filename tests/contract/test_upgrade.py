"""Upgraded answers: what the proxy adds a stream up to is what the SDKs add it up to, and what Qwen answers at once."""

import json
from random import Random
from typing import Any

from proxy.tools.fake.chat import ChatAnswer, read_chat
from proxy.tools.fake.native import NativeAnswer, read_native
from proxy.tools.fake.text import Stamp
from tests.answers import documents
from tests.contract.corpus import TOOLS
from tests.contract.playback import Playback
from tests.contract.sdks import Sdks, newer_major, undrawn
from tests.http_client import Client, request
from tests.proxy_under_test import CHAT, NATIVE, teed

EACH = 100
UPGRADE = {"upgrade": "always"}
SAYINGS = ("stream", "溪水", "one more", "🍵", "!")
MULTIMODAL = NATIVE.replace("text-generation", "multimodal-generation")


def drawn_options(random: Random) -> dict[str, Any]:
    """Draw what both dialects have in common."""
    options = {
        "enable_thinking": random.random() < 0.4,
        "thinking_budget": random.randint(1, 30),
        "tools": random.choice([None, None, TOOLS]),
        "parallel_tool_calls": random.random() < 0.5,
        "n": random.choice([1, 1, 1, 2, 3]),
        "max_tokens": random.randint(1, 60),
        "temperature": None if random.random() < 0.5 else 0.7,
    }
    return {name: value for name, value in options.items() if value is not None}


def drawn_chat(random: Random) -> dict[str, Any]:
    messages = [{"role": "user", "content": random.choice(SAYINGS) * random.randint(1, 5)}]
    return {"model": "qwen-plus", "messages": messages, **drawn_options(random)}


def drawn_native(random: Random) -> tuple[str, dict[str, Any]]:
    """Draw the path, too: multimodal answers are in parts."""
    path, options = random.choice([NATIVE, NATIVE, MULTIMODAL]), drawn_options(random)
    options["incremental_output"] = options["enable_thinking"] or random.random() < 0.5
    options["enable_search"] = random.random() < 0.2
    text = path == NATIVE and not (options["enable_thinking"] or options.get("tools") or options["n"] > 1)
    options["result_format"] = random.choice(["text", "message"]) if text else "message"
    content: Any = random.choice(SAYINGS) * random.randint(1, 5)
    messages = [{"role": "user", "content": [{"text": content}] if path == MULTIMODAL else content}]
    return path, {"model": "qwen-plus", "input": {"messages": messages}, "parameters": options}


async def answered(client: Client, path: str, body: dict[str, Any]) -> Any:
    client.send(request("POST", path, body=json.dumps(body).encode()), method="POST")
    answer = await client.answer()
    document = await answer.json()
    assert answer.status == 200, (body, document)
    return document


def plain(value: Any) -> Any:
    """Leave out what is null or "", and the SDKs' own additions: there is no difference to a client."""
    if isinstance(value, dict):
        found = {key: plain(one) for key, one in value.items() if key not in ("parsed", "parsed_arguments")}
        return {key: one for key, one in found.items() if one not in (None, "", {}, [])}
    return [plain(one) for one in value] if isinstance(value, list) else value


def added_up(document: dict[str, Any]) -> dict[str, Any]:
    """Leave out what the DashScope SDK takes from the last event alone, which does not tell it any more."""
    output = {key: value for key, value in document["output"].items() if key != "search_info"}
    return {"output": output, "usage": document["usage"]}


Trial = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]
"""What an upgraded request was answered, what Qwen answers at once, and the question to an SDK for its sum."""


async def tried_chat(client: Client, fake: Playback, random: Random) -> Trial:
    body = drawn_chat(random)
    document = await answered(client, CHAT, body)
    stamp = Stamp(document["id"].removeprefix("chatcmpl-"), document["created"])
    at_once = ChatAnswer(read_chat({**body, "stream": True}, 0), stamp).whole()
    streamed = documents(bytes(fake.requests[-1].sent))
    return document, json.loads(at_once), {"sdk": "sum", "dialect": "openai", "documents": streamed}


async def tried_native(client: Client, fake: Playback, random: Random) -> Trial:
    path, body = drawn_native(random)
    document = await answered(client, path, body)
    ask = read_native(body, 0, stream=True, multimodal=path == MULTIMODAL)
    at_once = NativeAnswer(ask, Stamp(document["request_id"], 0)).whole()
    streamed = documents(bytes(fake.requests[-1].sent))
    # Of all so far the last is the sum; several choices' sum the SDK tells in parts.
    told = streamed if ask.incremental and ask.n == 1 else streamed[-1:]
    return document, json.loads(at_once), {"sdk": "sum", "dialect": "dashscope", "documents": told, "n": ask.n}


@newer_major
async def test_upgraded_chats_are_what_the_sdk_adds_up_and_what_qwen_answers(sdks: Sdks, fake: Playback) -> None:
    """A hundred, with choices, tools, reasoning and usage: field by field, ids and times included."""
    random = Random(5)
    async with teed(fake.url, generations=UPGRADE) as tee:
        client = await tee.connect()
        upgraded, at_once, sums = zip(*[await tried_chat(client, fake, random) for _ in range(EACH)], strict=True)
    heard = await sdks.hear(list(sums))
    for one, other, summed in zip(upgraded, at_once, heard, strict=True):
        assert plain(one) == plain(other)
        assert plain(undrawn(one)) == plain(summed)
    assert {len(one["choices"]) for one in upgraded} == {1, 2, 3}
    said = [choice["message"] for one in upgraded for choice in one["choices"]]
    assert sum("reasoning_content" in message for message in said) > 20
    assert sum(len(message.get("tool_calls") or ()) > 1 for message in said) > 10


@newer_major
async def test_upgraded_natives_are_what_the_sdk_adds_up_and_what_qwen_answers(sdks: Sdks, fake: Playback) -> None:
    """A hundred more in DashScope's own API, cumulative or not, texts, messages and parts."""
    random = Random(6)
    async with teed(fake.url, generations=UPGRADE) as tee:
        client = await tee.connect()
        upgraded, at_once, sums = zip(*[await tried_native(client, fake, random) for _ in range(EACH)], strict=True)
    heard = await sdks.hear([{name: value for name, value in one.items() if name != "n"} for one in sums])
    for one, other, summed, asked in zip(upgraded, at_once, heard, sums, strict=True):
        assert plain(one) == plain(other)
        if asked["n"] == 1:
            assert plain(added_up(one)) == plain(added_up(summed))
