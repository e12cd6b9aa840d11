"""What the clients of Anthropic's Messages are asked for: each message by its name, and the faults that they have."""

from typing import Any

from tests.clients.node import WEATHER

TOOL = {"name": "weather", "description": "The weather.", "input_schema": WEATHER}
THINKING = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
SHORT: dict[str, Any] = {"thinking": {"type": "enabled", "budget_tokens": 9}, "max_tokens": 20}
ASKED: dict[str, dict[str, Any]] = {
    "text": {},
    "one token": {"max_tokens": 1},
    "thinking": THINKING,
    "tool": {"tools": [TOOL]},
    "thinking and tools": {"tools": [TOOL, {**TOOL, "name": "time"}], **THINKING},
    "search": {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
}
HOWS = ("whole", "events", "helper")
MORE_FAULTS = ("pings", "spaced", "spaced, pings, crlf", "error_inside; flat=1", "error_inside; flat=1; after=0")
MODES = ("raw", "events", "coalesced")
