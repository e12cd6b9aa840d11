"""What is said of a configuration that is not valid: the key, its place, and the nearest right name."""

from pathlib import Path

import pytest

from proxy.server.config import load
from proxy.server.configuration.mistakes import explained, keys_below

pytestmark = pytest.mark.usefixtures("bare_environment")
SECRET = "sk-never-to-be-printed"


def said(tmp_path: Path, text: str) -> str:
    """Return what is said of a file, with FILE for its path."""
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises((ValueError, OSError)) as error:
        load(path)
    return explained(error.value, path).replace(str(path), "FILE")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\n[limits]\nstream = 1\n", "limits.stream: there is no such key; did you mean limits.streams? (FILE, line 3"),
        ("[limit]\nstreams = 1\n", "limit: there is no such key; did you mean limits? (FILE, line 1)"),
        ("lisen = 1\n", "lisen: there is no such key; did you mean listen? (FILE, line 1)"),
        ('[upstream]\nkeyfile = "x"\n', "did you mean upstream.key_file"),
        ('[upstreams.b]\nurl = "http://b"\nweigth = 2\n', "did you mean upstreams.b.weight? (FILE, line 3)"),
        ('[[routes]]\npath = "/a"\n[[routes]]\npth = "/b"\n', "routes.1.pth: there is no such key; did you mean"),
        ("[upstream]\nretain_s = 3\n", "did you mean streams.retain_s? (FILE, line 2)"),
        ("[otel]\nzzz = 3\n", "otel.zzz: there is no such key; there are enabled (FILE, line 2)"),
        ("\n[timeouts]\n\nidle_s = -1\n", "idle_s: must be greater than or equal to 0 (FILE, line 4)"),
        ('[[routes]]\nupstream = "b"\n', "routes.0.path: required, but not given (FILE, line 1)"),
    ],
)  # fmt: skip
def test_mistake_has_its_key_its_line_and_the_nearest_name(tmp_path: Path, text: str, line: str) -> None:
    """Names of the same table first, then those of others."""
    assert line in said(tmp_path, text)


def test_mistake_of_the_environment_has_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes over the file, so that is where to look."""
    monkeypatch.setenv("STREAMTEE_LIMITS__STREAMS", "many")
    with pytest.raises(ValueError, match="streams") as error:
        load(None)
    assert "limits.streams: " in explained(error.value)
    assert "(STREAMTEE_LIMITS__STREAMS)" in explained(error.value)


def test_variable_that_is_not_known_has_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would silently do nothing."""
    monkeypatch.setenv("STREAMTEE_UPSTREM__KEY", SECRET)
    with pytest.raises(ValueError, match="UPSTREM__KEY is not known; did you mean STREAMTEE_UPSTREAM") as error:
        load(None)
    assert SECRET not in explained(error.value)


def test_file_that_can_t_be_read_is_named(tmp_path: Path) -> None:
    """With the place of what is no TOML, or without a file."""
    assert said(tmp_path, "a = 1\nb = \n").startswith("the configuration can't be read: FILE: Invalid value (at line 2")
    path = tmp_path / "none"
    with pytest.raises(OSError, match="none") as error:
        load(path)
    assert explained(error.value, path).count(str(path)) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[upstream]\n[upstream]\n", "Cannot declare upstream twice (at line 2"),
        ("[upstreams.b]\n[upstreams.b]\n", "Cannot declare upstreams.b twice (at line 2"),
        ("a = [1]\n[[a]]\n", "Cannot mutate immutable namespace a (at line 2"),
        ("a = " + "[" * 5000, "its arrays or tables are nested too deeply"),
    ],
)
def test_text_that_is_no_toml_is_told_in_words_of_toml(tmp_path: Path, text: str, words: str) -> None:
    """Python's module has its own for the names of tables."""
    assert words in said(tmp_path, text)


def test_keys_of_each_table_are_known() -> None:
    """Of tables in tables, under any name, and in arrays."""
    assert "listen" in keys_below([])
    assert "streams" in keys_below(["limits"])
    assert "key_file" in keys_below(["upstreams", "any"])
    assert "path" in keys_below(["routes", "0"])
    assert keys_below(["limits", "streams"]) == keys_below(["nothing"]) == []
