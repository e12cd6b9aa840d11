"""One choice's increment in a document of either dialect: where its texts stand, to read them and to put others there.

Knows no frames, no order and no past. What it does not know by name it leaves alone.
"""

from typing import Any

import orjson

Channel = tuple[str, int]
"""What a text belongs to within its choice: a field of the message, or the arguments of the tool call of an index."""

CONTENT: Channel = ("content", -1)
_FIELDS = ("reasoning_content", "refusal")
_CHANNELS: dict[str, Channel] = {field: (field, -1) for field in _FIELDS}


class Delta:
    """OpenAI's word: a choice's increment in one chunk.

    `choice` is the object that has the finish_reason, `message` the one that has the texts, `content` the key of the
    answer text in it.
    """

    __slots__ = ("choice", "content", "index", "message")

    def __init__(self, index: int, choice: dict[str, Any], message: dict[str, Any], content: str) -> None:
        self.index = index
        self.choice = choice
        self.message = message
        self.content = content

    def texts(self) -> list[tuple[Channel, str]]:
        """Return the texts in the order of channels: reasoning, refusal, content, arguments; also those that are ""."""
        message, found = self.message, []
        for field in _FIELDS:
            text = message.get(field)
            if type(text) is str:
                found.append((_CHANNELS[field], text))
        content = _joined(message.get(self.content))
        if content is not None:
            found.append((CONTENT, content))
        if message.get("tool_calls"):
            for call, fragment in self._fragments():
                arguments = record(fragment.get("function")).get("arguments")
                found.append((call, arguments if isinstance(arguments, str) else ""))
        return found

    def named(self) -> list[tuple[Channel, str, str]]:
        """Return what names tool calls: ids and functions' names, those that are said."""
        found = []
        for call, fragment in self._fragments() if self.message.get("tool_calls") else ():
            for field, value in (("id", fragment.get("id")), ("name", record(fragment.get("function")).get("name"))):
                if value and isinstance(value, str):
                    found.append((call, field, value))
        return found

    def put(self, channel: Channel, text: str) -> None:
        """Put a text in its place, which is made if there is none."""
        field, call = channel
        if call >= 0:
            fragment = self._fragment(channel)
            self._function(channel)["arguments"] = text
            others = [one for told, one in self._fragments() if told != channel or one is fragment]
            self.message["tool_calls"] = others  # one chunk may have several fragments of a call
            return
        field = self.content if channel == CONTENT else field
        in_parts = isinstance(self.message.get(field), list)
        self.message[field] = [{"text": text}] if in_parts else text

    def name(self, channel: Channel, ident: str | None, name: str | None) -> None:
        """Give a tool call its id and its function's name; None is left out, as Qwen does after the first fragment."""
        fragment, function = self._fragment(channel), self._function(channel)
        fragment["id"] = ident or ""
        others = {key: value for key, value in function.items() if key != "name"}
        function.clear()
        function.update(others if name is None else {"name": name, **others})

    def add(self, channel: Channel, fields: dict[str, Any]) -> None:
        """Give a tool call further fields."""
        self._fragment(channel).update(fields)

    def silence(self, but: Channel) -> None:
        """Take out every text but that of one channel."""
        message = self.message
        for channel, text in self.texts():
            if text and channel != but and channel[1] < 0:
                self.put(channel, "")
        if "tool_calls" in message:
            kept = [fragment for call, fragment in self._fragments() if call == but]
            message.pop("tool_calls") if not kept else message.update(tool_calls=kept)

    def rest(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what message and choice say that is neither text, name, role, finish reason nor logprobs.

        Both are empty as a rule.
        """
        message, choice = self.message, self.choice
        found: dict[str, Any] = {}
        for key, value in message.items():
            if key in _KNOWN or value is None or (key == self.content and _joined(value) is not None):
                continue
            if key == "tool_calls":
                value = [(call, other) for call, fragment in self._fragments() if (other := _unknown(fragment))]
                if not value:
                    continue
            found[key] = value
        if choice is message:
            return found, {}
        beside = {
            key: value
            for key, value in choice.items()
            if key not in _KNOWN and value is not None and value is not message
        }
        return found, beside

    def _fragments(self) -> list[tuple[Channel, dict[str, Any]]]:
        fragments = records(self.message.get("tool_calls"))
        return [(("arguments", _index(fragment, place)), fragment) for place, fragment in enumerate(fragments)]

    def _fragment(self, channel: Channel) -> dict[str, Any]:
        for call, fragment in self._fragments():
            if call == channel:
                return fragment
        fragment = {"index": channel[1], "id": "", "type": "function", "function": {}}
        fragments = [*self._fragments(), (channel, fragment)]
        self.message["tool_calls"] = [one for _, one in sorted(fragments, key=lambda told: told[0])]
        return fragment

    def _function(self, channel: Channel) -> dict[str, Any]:
        fragment = self._fragment(channel)
        function = fragment["function"] = record(fragment.get("function"))
        return function


_KNOWN = frozenset([*_FIELDS, "role", "finish_reason", "logprobs", "index"])


def _unknown(fragment: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fragment.items() if key not in ("index", "id", "type", "function")}


def _joined(content: Any) -> str | None:
    """Return answer text, also when it comes in parts as multimodal models write it; None when it is no text."""
    if type(content) is str:
        return content
    if isinstance(content, list) and all(isinstance(part, dict) and list(part) == ["text"] for part in content):
        return "".join(part["text"] for part in content if isinstance(part["text"], str))
    return None


def _index(fragment: dict[str, Any], place: int) -> int:
    index = fragment.get("index")
    return index if isinstance(index, int) and index >= 0 else place


def json_object(data: bytes) -> dict[str, Any]:
    """Return the JSON object that bytes are; {} for whatever else they are."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def record(value: Any) -> dict[str, Any]:
    """Return a JSON object as it is, anything else as an empty one: an upstream may send what it likes."""
    return value if isinstance(value, dict) else {}


def records(value: Any) -> list[dict[str, Any]]:
    """Return the objects in a JSON array; none of anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
