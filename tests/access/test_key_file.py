"""The file of callers with keys: what it holds, how it is replaced, and whose key is whose."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from proxy.access import key_file
from proxy.access.key_file import CallerRecord, CallerRecords, KeyIndex, new_key, read_records, replace, write_records
from proxy.access.limits import CallerLimits

NOW = 1_800_000_000


def records(**callers: CallerRecord) -> CallerRecords:
    return CallerRecords(callers=callers)


def one_key(**more: Any) -> tuple[str, CallerRecord]:
    key, made = new_key(NOW, more.pop("expires_at", None))
    return key, CallerRecord(keys=(made,), **more)


def test_file_holds_no_key_and_each_has_a_salt_of_its_own(tmp_path: Path) -> None:
    """Nobody who reads the file can send what it holds."""
    file = tmp_path / "keys.json"
    (first, alice), (second, bob) = one_key(), one_key()
    write_records(file, records(alice=alice, bob=bob))
    text = file.read_text()
    for key in (first, second):
        assert key not in text
        assert key.rpartition("-")[2] not in text
    assert alice.keys[0].salt != bob.keys[0].salt
    assert read_records(file) == records(alice=alice, bob=bob)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_key_finds_its_caller_and_no_other_key_does() -> None:
    """Not one that differs in its last digit, its case or its id, nor the digest."""
    key, alice = one_key()
    other, bob = one_key()
    index = KeyIndex(records(alice=alice, bob=bob))
    assert (index.of_key(key, NOW), index.of_key(other, NOW)) == ("alice", "bob")
    last = "0" if key[-1] != "0" else "1"
    mixed = other[: len("sk-st-") + 12] + key[len("sk-st-") + 12 :]
    for wrong in (
        key[:-1] + last,
        key.upper(),
        key + " ",
        key[:-1],
        mixed,
        alice.keys[0].digest,
        "",
        "sk-st-",
        "\udcff",
    ):
        assert index.of_key(wrong, NOW) is None


def test_key_that_expired_or_whose_caller_is_disabled_finds_nobody() -> None:
    """At its second."""
    key, alice = one_key(expires_at=NOW + 10)
    index = KeyIndex(records(alice=alice))
    assert (index.of_key(key, NOW + 9.9), index.of_key(key, NOW + 10)) == ("alice", None)
    assert (index.next_expiry(NOW), index.next_expiry(NOW + 10)) == (NOW + 10, None)
    disabled = KeyIndex(records(alice=alice.model_copy(update={"disabled": True, "subject": "CN=alice"})))
    assert (disabled.of_key(key, NOW), disabled.of_subject("CN=alice"), disabled.of_subject("CN=x")) == (
        None,
        None,
        "CN=x",
    )


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the function that the standard library has for it, on digests of one length."""
    compared: list[tuple[str, str]] = []
    monkeypatch.setattr(key_file.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or a == b)
    key, alice = one_key()
    assert KeyIndex(records(alice=alice)).of_key(key[:-1] + "z", NOW) is None
    assert compared == []  # not of the form of a key: nothing is compared
    assert KeyIndex(records(alice=alice)).of_key(key, NOW) == "alice"
    assert [len(one) for pair in compared for one in pair] == [64, 64]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Invalid JSON"),
        ("[]", "the file: must be an object, not an array"),
        ('{"callers": {"": {}}}', "name"),
        ('{"callers": {"a b": {}}}', "name"),
        ('{"callers": {"a": {"limits": {"streams": -1}}}}', "callers.a.limits.streams"),
        ('{"callers": {"a": {"limits": {"steams": 1}}}}', "callers.a.limits.steams: there is no such key"),
        ('{"callers": {"a": {"keys": {}}}}', "callers.a.keys: must be an array, not an object"),
        ('{"callers": {"a": null}}', "callers.a: must be an object, not null"),
        ('{"callers": {"a": {"subject": "CN=x"}, "b": {"subject": "CN=x"}}}', "same subject"),
        ('{"callers": {"a": {"keys": [{"id": "SECRETSECRET"}]}}}', "callers.a.keys.0.id"),
    ],
)
def test_bad_file_is_refused_by_the_name_of_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    """Without quoting it: it may be a key that somebody has put into the wrong place."""
    file = tmp_path / "keys.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"keys\.json") as raised:
        read_records(file)
    assert said in str(raised.value)
    assert "SECRET" not in str(raised.value)


def test_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full leaves the old file, and nothing beside it."""
    file = tmp_path / "keys.json"
    replace(file, b"old")
    file.chmod(0o640)

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace(file, b"new")
    monkeypatch.undo()
    assert (file.read_bytes(), os.listdir(tmp_path)) == (b"old", ["keys.json"])
    replace(file, b"new")
    assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (b"new", 0o640)


def test_expiry_of_a_caller_only_comes_nearer() -> None:
    """Rotating does not give a key that expires soon more time."""
    _, soon = one_key(expires_at=NOW + 10)
    _, never = one_key()
    both = soon.with_key(never.keys[0]).expiring(NOW + 100)
    assert [key.expires_at for key in both.keys] == [NOW + 10, NOW + 100]


def test_only_listed_callers_have_limits_of_the_file() -> None:
    """A certificate is enough to be a caller; the hook may know others."""
    limited = CallerRecord(limits=CallerLimits(streams=1))
    index = KeyIndex(records(alice=limited))
    assert (index.limits_of("alice"), index.limits_of("CN=x")) == (CallerLimits(streams=1), None)


def test_file_can_be_written_by_hand() -> None:
    """As docs/keys.md shows it."""
    text = json.dumps({"callers": {"alice": {"limits": {"requests_per_minute": 60}, "subject": "CN=alice"}}})
    assert CallerRecords.model_validate_json(text).callers["alice"].limits.requests_per_minute == 60
