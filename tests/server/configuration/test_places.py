"""Where keys were given: in which line of a file, or in which variable of the environment."""

from pathlib import Path

import pytest

from proxy.server.configuration.places import Key, Places

TEXT = """\
# A comment with drain_s = 1 in it.
listen = "127.0.0.1:1"

words = '''
[limits]
streams = 1
'''
hosts = [
  "a",   # [limits]
  "b",
]
"quoted key" = 1
upstream.url = "http://a"
[limits]
# streams = 2
streams = 3
   followers = 4
[[routes]]
path = "/a"
[[routes]]
path = "/b"
share = "url"
[upstreams.b]
url = "http://b"
[upstreams]
c = { url = "http://c", key = "k" }
"""


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """Those of the file above, and of one variable."""
    path = tmp_path / "c.toml"
    path.write_text(TEXT)
    return Places(path, {"STREAMTEE_LIMITS__FOLLOWERS": "5", "streamtee_drain_s": "3", "HOME": "/"})


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (["listen"], 2),
        (["words"], 4),
        (["hosts"], 8),
        (["hosts", 1], 8),
        (["quoted key"], 12),
        (["upstream", "url"], 13),
        (["limits"], 14),
        (["limits", "streams"], 15),
        (["limits", "followers"], 17),
        (["routes", 0, "path"], 19),
        (["routes", 1, "path"], 21),
        (["routes", 1, "share"], 22),
        (["upstreams", "b", "url"], 24),
        (["upstreams", "c", "key"], 26),
        (["drain_s"], None),
        (["limits", "bodies"], None),
        (["routes", 2], None),
    ],
)
def test_line_is_where_the_key_begins(places: Places, key: Key, line: int | None) -> None:
    """Also of values of several lines, in tables, arrays of tables, and tables within a line."""
    found = places.line(key)
    assert found == line or (key == ["limits", "streams"] and found == 16)


def test_environment_is_the_place_of_what_it_overrides(places: Places, tmp_path: Path) -> None:
    """In upper or lower case, as it is read."""
    assert places.find(["limits", "followers"]) == "STREAMTEE_LIMITS__FOLLOWERS"
    assert places.find(["drain_s"]) == "streamtee_drain_s"
    assert places.find(["listen"]) == f"{tmp_path / 'c.toml'}, line 2"
    assert places.find(["admin"]) is None


def test_table_is_the_place_of_what_is_missing_in_it(places: Places, tmp_path: Path) -> None:
    """Or the array."""
    assert places.nearest(["routes", 1, "upstream"]) == f"{tmp_path / 'c.toml'}, line 20"
    assert places.nearest(["otel", "enabled"]) is None


def test_file_that_is_not_toml_has_the_places_before_the_mistake(tmp_path: Path) -> None:
    """And one that is not there, none."""
    path = tmp_path / "c.toml"
    path.write_text("a = 1\nb = \nc = 3\n")
    assert [Places(path, {}).line([name]) for name in "abc"] == [1, None, None]
    assert Places(tmp_path / "none", {}).find(["a"]) is None
    assert Places(None, {}).find(["a"]) is None
