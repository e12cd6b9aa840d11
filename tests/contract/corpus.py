"""What the SDKs are asked in the contract suite: each question by its name, with how the answer to it ends.

A question is what an SDK is called with; the header it sends names the fault, or the recording, of the answer.
"""

from typing import Any

from tests.contract.playback import RECORDINGS
from tests.contract.sdks import Question

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "获取现在的天气",
            "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
        },
    }
    for name in ("weather", "time")
]
_USAGE = {"stream_options": {"include_usage": True}}
_SHORT = {"max_tokens": 20, "thinking_budget": 10}
_CHATS: dict[str, dict[str, Any]] = {
    "text": {"max_tokens": 100},
    "usage": _USAGE,
    "one token": {"max_tokens": 1},
    "thinking": {"enable_thinking": True, **_USAGE},
    "tool": {"tools": TOOLS},
    "tools": {"tools": TOOLS, "parallel_tool_calls": True, **_USAGE},
    "thinking and tools": {"tools": TOOLS, "parallel_tool_calls": True, "enable_thinking": True},
    "choices": {"n": 3, "max_tokens": 30, **_USAGE},
    "choices that think": {"n": 2, "enable_thinking": True, **_SHORT},
}
_FUNCTIONS = [{"type": "function", **tool["function"]} for tool in TOOLS]
_RESPONSES: dict[str, dict[str, Any]] = {
    "text": {},
    "one token": {"max_output_tokens": 1},
    "thinking": {"reasoning": {"effort": "high"}},
    "tool": {"tools": _FUNCTIONS[:1]},
    "tools and thinking": {"tools": _FUNCTIONS, "reasoning": {"effort": "high"}},
    "custom tool": {"tools": [{"type": "custom", "name": "note"}]},
    "search": {"tools": [{"type": "web_search"}]},
    "mcp": {"tools": [{"type": "mcp", "server_label": "streams", "server_url": "https://example.com"}]},
}
_NATIVES: dict[str, dict[str, Any]] = {
    "text": {"incremental_output": True},
    "message": {"incremental_output": True, "result_format": "message"},
    "cumulative": {"result_format": "message"},
    "added up": {"incremental_output": False, "result_format": "message"},
    "added up text": {"incremental_output": False},
    "thinking": {"incremental_output": True, "result_format": "message", "enable_thinking": True},
    "thinking, added up": {"incremental_output": False, "result_format": "message", "enable_thinking": True},
    "tools": {"incremental_output": True, "result_format": "message", "tools": TOOLS, "parallel_tool_calls": True},
    "tools, added up": {"incremental_output": False, "result_format": "message", "tools": TOOLS},
    "choices": {"incremental_output": True, "result_format": "message", "n": 2, "max_tokens": 30},
    "search": {"incremental_output": True, "result_format": "message", "enable_search": True},
    "image": {"kind": "MultiModalConversation", "model": "qwen3-vl-plus", "incremental_output": True},
    "image, added up": {"kind": "MultiModalConversation", "model": "qwen3-vl-plus", "incremental_output": False},
    "application": {"kind": "Application", "app_id": "an-app", "prompt": "说点什么", "incremental_output": True},
}

OF_FRAMING = (
    "split_utf8",
    "split_bytes",
    "gzip",
    "close_delimited",
    "burst",
    "no_blank_line",
    "huge_frame; bytes=50000",
    "stall; seconds=0.01",
    "late_end; seconds=0.01",
)
"""Faults of how an answer is sent: it arrives whole, and an SDK hears the same with the proxy and without."""
OF_FRAMES = (
    "crlf",
    "cr",
    "no_done",
    "comments",
    "comments, crlf",
    "bom",
    "count; frames=3",
    "error_inside",
    "error_inside; done=1",
    "error_inside; after=0",
)
"""Faults of the frames themselves, that arrive whole, too."""
REFUSED = (
    "status; status=400",
    "status; status=400_stream",
    "status; code=data_inspection_failed",
    "status; status=401",
    "status; status=403",
    "status; status=404",
    "status; status=429",
    "status; status=429; flat=1",
    "status; code=insufficient_quota",
    "status; status=500",
    "status; status=500; empty=1",
    "status; status=503",
    "retry_after; seconds=1",
)
"""Faults that are no stream at all."""
BROKEN = (
    "cut_mid_frame",
    "cut_mid_chunk",
    "cut_clean_half_frame",
    "reset",
    "close_delimited; cut=reset",
    "bad_chunk",
    "garbage",
)
"""Faults by which an answer breaks off: how an SDK tells of that is the network's matter, and not the same always."""


def chats(faults: tuple[str, ...]) -> dict[str, Question]:
    """Return questions in OpenAI's words, streamed, for an answer with each of the faults."""
    asked: dict[str, Any] = {"stream": True, "enable_thinking": True, **_SHORT, **_USAGE}
    return {fault: {**asked, "headers": {"Fake-Fault": fault}} for fault in faults}


def natives(faults: tuple[str, ...]) -> dict[str, Question]:
    """Return questions in DashScope's words, streamed, for an answer with each of the faults."""
    asked: dict[str, Any] = {"stream": True, "incremental_output": True, "result_format": "message", "max_tokens": 20}
    return {fault: {**asked, "headers": {"Fake-Fault": fault}} for fault in faults}


def all_chats() -> dict[str, Question]:
    """Return every question in OpenAI's words whose answer arrives, streamed or not, and those that are refused."""
    streamed: dict[str, Question] = {name: {"stream": True, **asked} for name, asked in _CHATS.items()}
    whole: dict[str, Question] = {"in one piece": {"n": 2}, "tools, in one piece": {"tools": TOOLS}}
    return streamed | whole | chats(OF_FRAMING + OF_FRAMES + REFUSED) | recordings("compat", {"stream": True})


def all_natives() -> dict[str, Question]:
    """Do the same in DashScope's words."""
    streamed: dict[str, Question] = {name: {"stream": True, **asked} for name, asked in _NATIVES.items()}
    whole = {f"{name}, in one piece": _NATIVES[name] for name in ("text", "tools")}
    played = recordings("native", {"stream": True, "incremental_output": True})
    added_up = {f"{name}, added up": {**asked, "incremental_output": False} for name, asked in played.items()}
    return streamed | whole | natives(OF_FRAMING + OF_FRAMES + REFUSED) | played | added_up


def responses(faults: tuple[str, ...], **more: Any) -> dict[str, Question]:
    """Return questions for a response, streamed, for an answer with each of the faults."""
    asked: dict[str, Any] = {"stream": True, "reasoning": {"effort": "low"}, **more}
    return {fault: {**asked, "headers": {"Fake-Fault": fault}} for fault in faults}


def all_responses() -> dict[str, Question]:
    """Return every question for a response that arrives, streamed or not, in both framings, and those refused."""
    streamed: dict[str, Question] = {
        f"{name}, {framing or 'dashscope'}": {"stream": True, "headers": {"Fake-Fault": framing}, **asked}
        for name, asked in _RESPONSES.items()
        for framing in ("", "openai", "sparse")
    }
    whole: dict[str, Question] = {f"{name}, in one piece": asked for name, asked in _RESPONSES.items()}
    return streamed | whole | responses(OF_FRAMING + OF_FRAMES + REFUSED)


def of_helper() -> dict[str, Question]:
    """Return those of them that the SDK's own accumulator can take: it needs items before their deltas, and by name."""
    return {
        name: {"how": "helper", **asked}
        for name, asked in all_responses().items()
        if asked.get("stream") and "sparse" not in name and "mcp, dashscope" not in name
    }


def of_client() -> dict[str, Question]:
    """Return questions to the client of dashscope 2 in each protocol; it sends no header, so models name the faults."""
    asks: dict[str, Question] = {
        "text": {},
        "added up": {"incremental_output": False},
        "thinking": {"enable_thinking": True},
        "tools": {"tools": TOOLS},
        "choices": {"n": 2},
        "error inside": {"model": "qwen-plus+error_inside,after=3"},
        "refused": {"model": "qwen-plus+status,status=429"},
        "CRLF": {"model": "qwen-plus+crlf"},
        "comments": {"model": "qwen-plus+comments"},
    }
    return {
        f"{name}, {protocol}": {"protocol": protocol, "max_tokens": 40, **asked}
        for name, asked in asks.items()
        for protocol in ("native", "openai")
    }


def recordings(dialect: str, asked: Question) -> dict[str, Question]:
    """Return a question for each recorded answer of a dialect; none where they are not at hand."""
    names = [name for name in RECORDINGS if name.startswith(dialect)]
    return {name: {**asked, "headers": {"Play-Back": name}} for name in names}
