"""The configuration: the file that documents it, what goes over what, and what is said of mistakes."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from pydantic import SecretStr, ValidationError

from proxy.access.pages import is_loopback
from proxy.server.config import Config, address, load
from proxy.tools.cli import main

FILE = Path(__file__).parents[2] / "config/streamtee.toml"
SECRET = "sk-never-to-be-printed"
DIGEST = "a" * 64


pytestmark = pytest.mark.usefixtures("bare_environment")


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Return what writes a configuration file."""

    def write(text: str) -> Path:
        path = tmp_path / "streamtee.toml"
        path.write_text(text)
        return path

    return write


def check(path: Path | None = None, **environment: str) -> Result:
    """Run `streamtee check-config`."""
    arguments = ["check-config"] if path is None else ["check-config", "--config", str(path)]
    return CliRunner().invoke(main, arguments, env=environment)


def plain(value: Any) -> Any:
    """Return a configuration as TOML has it."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value


# The file.


def test_file_lists_every_key_with_its_default() -> None:
    """In the order of the classes, and nothing else."""
    listed = tomllib.loads(FILE.read_text())
    defaults = plain(Config().model_dump())
    assert listed == defaults
    assert list(listed) == list(defaults)
    for table in (name for name in listed if isinstance(listed[name], dict)):
        assert list(listed[table]) == list(defaults[table])


def test_file_explains_every_key() -> None:
    """Each has a comment of its own."""
    keys = [line for line in FILE.read_text().splitlines() if re.match(r"\w+ = ", line)]
    assert [line for line in keys if not re.search(r" # \S", line)] == []


def test_file_is_a_configuration() -> None:
    """It can be started with as it is."""
    assert load(FILE) == Config()
    assert check(FILE).exit_code == 0


# What goes over what.


def test_file_goes_over_defaults(write: Any) -> None:
    """Keys that it leaves out keep theirs, also within a table."""
    config = load(write("drain_s = 5\n[limits]\nstreams = 7\n"))
    assert (config.drain_s, config.limits.streams) == (5, 7)
    assert config.limits.followers == Config().limits.followers
    assert config.listen == Config().listen


def test_environment_goes_over_the_file(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Key by key: the rest of a table stays the file's."""
    monkeypatch.setenv("STREAMTEE_LISTEN", "0.0.0.0:80")
    monkeypatch.setenv("STREAMTEE_LIMITS__STREAMS", "9")
    monkeypatch.setenv("STREAMTEE_UPSTREAM__KEY", SECRET)
    monkeypatch.setenv("STREAMTEE_AUTH__MODE", "keys")
    monkeypatch.setenv("STREAMTEE_AUTH__KEYS", json.dumps([DIGEST]))
    config = load(write('listen = "127.0.0.1:1"\ndrain_s = 5\n[limits]\nstreams = 7\nfollowers = 8\n'))
    assert (config.listen, config.drain_s) == ("0.0.0.0:80", 5)
    assert (config.limits.streams, config.limits.followers) == (9, 8)
    assert config.upstream.key.get_secret_value() == SECRET
    assert (config.auth.mode, config.auth.keys) == ("keys", (DIGEST,))


def test_admin_token_is_read_from_a_file(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named in the file or in the environment, without the line's end; `check-config` does not show it."""
    secret = tmp_path / "admin_token"
    secret.write_text(f"{SECRET}\n")
    path = write(f'admin_token_file = "{secret}"')
    assert load(path).admin_token.get_secret_value() == SECRET
    assert SECRET not in check(path).output
    monkeypatch.setenv("STREAMTEE_ADMIN_TOKEN_FILE", str(secret))
    assert load(None).admin_token.get_secret_value() == SECRET


def test_environment_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is needed; lower case is read as well."""
    monkeypatch.setenv("streamtee_drain_s", "3")
    monkeypatch.setenv("STREAMTEE_UPSTREAM__URL", "http://127.0.0.1:1")
    config = load(None)
    assert (config.drain_s, config.upstream.url) == (3, "http://127.0.0.1:1")


def test_routes_and_upstreams_are_read(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the file's own comment has them, the key of an upstream from the environment."""
    monkeypatch.setenv("STREAMTEE_UPSTREAMS__TICKER__KEY", SECRET)
    lines = re.findall(r"^  # (\{ path = .*)$", FILE.read_text(), re.MULTILINE)
    assert len(lines) == 3
    table = '[upstreams.ticker]\nurl = "http://127.0.0.1:1/base/"\n'
    config = load(write("\n".join(["routes = [", *lines, "]", table])))
    events, rest, tools = config.routes
    assert tools.record
    assert not rest.record
    assert (events.path, events.upstream, events.share) == ("/events", "ticker", "url")
    assert (events.join, events.keep_s) == ("window", 60)
    assert (rest.path, rest.share) == ("/rest/", "none")
    ticker = config.upstreams["ticker"]
    assert (ticker.url, ticker.key.get_secret_value()) == ("http://127.0.0.1:1/base", SECRET)
    assert SECRET not in repr(config) + config.model_dump_json()


@pytest.mark.parametrize("path", ["/", "/events", "/v1x", "/api/", "/healthz/x", "/a.b/~c/%20", "/v2/"])
def test_path_beside_those_that_are_served_is_free(path: str) -> None:
    """Also a prefix around them: the more special is served first."""
    assert Config.model_validate({"routes": [{"path": path}]}).routes[0].path == path


def test_file_says_the_defaults_of_a_route() -> None:
    """In the words of its comment."""
    route, text = Config.model_validate({"routes": [{"path": "/a"}]}).routes[0], FILE.read_text()
    assert f"({route.window_bytes})" in text
    assert f"({route.keep_s})" in text
    for name in set(type(route).model_fields) - {"path"}:
        assert re.search(rf"^# {name} ", text, re.MULTILINE), name


def test_configuration_does_not_change() -> None:
    """What was checked stays as it was checked."""
    config = Config()
    with pytest.raises(ValidationError):
        config.drain_s = 1  # type: ignore[misc]
    with pytest.raises(ValidationError):
        config.limits.streams = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "origin",
    ["https://page.test", "http://127.0.0.1:3000", "http://[::1]:8080", "http://localhost:443", "app://localhost", "*"],
)
def test_origin_is_as_browsers_write_it(write: Any, origin: str) -> None:
    """Of apps too."""
    assert load(write(f'[cors]\norigins = ["{origin}"]')).cors.origins == (origin,)


# Mistakes.


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("listn = 1", ["listn", "no such key"]),
        ("[limits]\nstream = 1", ["limits.stream", "no such key"]),
        ("[limit]\nstreams = 1", ["limit:", "no such key"]),
        ("[limits]\nstreams = 0", ["limits.streams", "greater than or equal to 1"]),
        ("[limits]\nstreams = -1", ["limits.streams", "greater than or equal to 1"]),
        ("[limits]\nstreams = 1.5", ["limits.streams", "integer"]),
        ('[limits]\nstreams = "many"', ["limits.streams", "integer"]),
        ("[limits]\nbody_bytes = 0", ["limits.body_bytes", "greater than or equal to 1"]),
        ("drain_s = -1", ["drain_s", "greater than or equal to 0"]),
        ('drain_s = "soon"', ["drain_s", "number"]),
        ("[timeouts]\nidle_s = -0.1", ["timeouts.idle_s", "greater than or equal to 0"]),
        ("[upstream]\nmax_connections = -1", ["upstream.max_connections", "greater than or equal to 0"]),
        ('log_level = "loud"', ["log_level", "debug", "info", "warning", "error"]),
        ('[auth]\nmode = "none"', ["auth.mode", "pass", "keys"]),
        ('[auth]\nmode = "keys"', ["auth.keys", "upstream.key"]),
        ('[auth]\nkeys = ["abc"]', ["auth.keys", "number 1", "SHA-256", "64"]),
        (f'[auth]\nkeys = ["{DIGEST}", "{DIGEST.upper()}"]', ["auth.keys", "number 2", "lower-case"]),
        ('[streams]\non_disconnect = "stop"', ["streams.on_disconnect", "cancel", "continue", "grace=SECONDS"]),
        ('[streams]\non_disconnect = "grace=soon"', ["streams.on_disconnect", "grace=SECONDS"]),
        ('[streams]\non_disconnect = "grace=-1"', ["streams.on_disconnect", "grace=SECONDS"]),
        ('listen = "8080"', ["listen", "HOST:PORT"]),
        ('listen = ""', ["listen", "HOST:PORT"]),
        ('listen = ":8080"', ["listen", "HOST:PORT"]),
        ('listen = "127.0.0.1:65536"', ["listen", "HOST:PORT"]),
        ('admin = "here"', ["admin", "HOST:PORT"]),
        ('admin_token = "short"', ["admin_token", "16 or more characters"]),
        ('admin_token = "a token with spaces"', ["admin_token", "without spaces"]),
        ('admin_token_file = "/nowhere/at/all"', ["admin_token_file", "/nowhere/at/all"]),
        ('admin_token_file = "/dev/null"', ["admin_token_file", "/dev/null is empty"]),
        (f'admin_token = "{SECRET}"\nadmin_token_file = "/dev/null"', ["admin_token_file", "both"]),
        ('[upstream]\nurl = "qwen.test"', ["upstream.url", "http://", "https://"]),
        ('[upstream]\nurl = "ftp://qwen.test"', ["upstream.url", "http://", "https://"]),
        ('[upstream]\nurl = "https://"', ["upstream.url", "http://", "https://"]),
        ('[upstream]\nurl = "https://me:you@qwen.test"', ["upstream.url", "a password", "not sent"]),
        ('[upstream]\nurl = ""', ["upstream.url", "http://", "https://"]),
        ('[upstream]\nurl = "https://qwen.test/?a=b"', ["upstream.url", "query"]),
        ('[upstream]\nurl = "https://qwen.test/#a"', ["upstream.url", "fragment"]),
        ('[upstream]\noutbound_proxy = "socks5://x"', ["upstream.outbound_proxy", "http://"]),
        ('[capabilities]\nsecrets = ["short"]', ["capabilities.secrets", "number 1", "32 characters"]),
        ("[capabilities]\nttl_s = 0", ["capabilities.ttl_s", "greater than or equal to 1"]),
        ("[capabilities]\nttl_s = 100\nttl_max_s = 99", ["capabilities", "ttl_s is 100", "ttl_max_s, 99"]),
        ('[cors]\norigins = ["page.test"]', ["cors.origins", "page.test", "https://host"]),
        ('[cors]\norigins = ["https://page.test/"]', ["cors.origins", "https://page.test/"]),
        ('[cors]\norigins = ["https://Page.test"]', ["cors.origins", "https://Page.test"]),
        ('[cors]\norigins = ["https://page.test:443"]', ["cors.origins", "https://page.test:443"]),
        ('[cors]\norigins = ["http://page.test:80"]', ["cors.origins", "http://page.test:80"]),
        ('[cors]\norigins = ["null"]', ["cors.origins", "null"]),
        ('[cors]\norigins = ["*", "https://page.test"]', ["cors.origins", "alone"]),
        ('[cors]\norigins = ["*"]\ncredentials = true', ["cors", "credentials", "list the origins"]),
        ("[cors]\nmax_age_s = -1", ["cors.max_age_s", "greater than or equal to 0"]),
        ("listen = ", ["can't be read"]),
        ("[upstreams.a]\nkeepalive_s = 1", ["upstreams.a has no url"]),
        ('[upstreams.a]\nurl = "nowhere"', ["upstreams.a.url", "http://"]),
        ('[upstreams.a__b]\nurl = "http://x"', ["'a__b'", "a-z"]),
        ('[upstreams.a]\nurl = "http://x"\nurls = 1', ["upstreams.a.urls", "no such key"]),
        ('[[routes]]\npath = "/a"\nupstream = "b"', ["'b'", "/a", "none"]),
        ('[[routes]]\npath = "/a"\nupstream = "b"\n[upstreams.c]\nurl = "http://x"', ["'b'", "/a", "c"]),
        ('[[routes]]\npath = "/a"\n[[routes]]\npath = "/a"', ["/a", "twice"]),
        ("[[routes]]", ["routes.0.path", "required"]),
        ('[[routes]]\npath = "a"', ["routes.0.path", "slash"]),
        ('[[routes]]\npath = "/a?b"', ["routes.0.path", "query"]),
        ('[[routes]]\npath = "/{a}"', ["routes.0.path", "braces"]),
        ('[[routes]]\npath = "/a/../b"', ["routes.0.path", "dot segments"]),
        ('[[routes]]\npath = "/v1/events"', ["routes.0.path", "clashes with /v1/"]),
        ('[[routes]]\npath = "/v1"', ["routes.0.path", "clashes with /v1/"]),
        ('[[routes]]\npath = "/api/v1/x/"', ["routes.0.path", "clashes with /api/v1/"]),
        ('[[routes]]\npath = "/healthz"', ["routes.0.path", "clashes with /healthz"]),
        ('[[routes]]\npath = "/a"\nshare = "body"', ["routes.0.share", "none", "url"]),
        ('[[routes]]\npath = "/a"\nshare = "url"\nrecord = true', ["routes.0", "record", "each request"]),
        ('[[routes]]\npath = "/a"\nshare = "url"\njoin = "start"', ["routes.0.join", "live", "window"]),
        ('[[routes]]\npath = "/a"\nshare = "url"\nkeep_s = -1', ["routes.0.keep_s", "greater than or equal to 0"]),
        ('[auth]\nanonymous = "some"', ["auth.anonymous", "auto", "none", "shared"]),
        (
            f'[upstream]\nkey = "k"\n[auth]\nmode = "keys"\nkeys = ["{DIGEST}"]\nanonymous = "shared"',
            ["auth.anonymous", "pass"],
        ),
        ('[[routes]]\npath = "/a"\nkey_header = "X Key"', ["routes.0.key_header", "X Key"]),
        ('[[routes]]\npath = "/a"\nkey_header = "Connection"', ["routes.0.key_header", "Connection"]),
        ('[[routes]]\npath = "/a"\nkey_header = "Host"', ["routes.0.key_header", "Host"]),
        ('[[models]]\nname = "m"\nupstream = "b"\n[upstreams.c]\nurl = "http://x"', ["models", "'b' of m", "among: c"]),
        ('[[models]]\nname = "m"\nupstream = "default"', ["models", "'default' of m", "among: none"]),
        ('[[models]]\nname = "m"', ["models", "m has neither an upstream nor an alias_of"]),
        (
            '[[models]]\nname = "m"\nalias_of = "n"\n[[models]]\nname = "m"\nalias_of = "o"',
            ["models", "m is listed twice"],
        ),
        ('[[models]]\nname = "a*b"\nalias_of = "n"', ["models.0.name", "'a*b'", "a * at the end"]),
        ('[[models]]\nname = ""\nalias_of = "n"', ["models.0.name", "a * at the end"]),
        ('[[models]]\nname = "m"\nalias_of = "n*"', ["models.0.alias_of", "'n*'", "whole name"]),
        (
            '[[models]]\nname = "m"\nupstream = "c"\n[upstreams.c]\nurl = "http://x"\nkey = "k"',
            ["c has a key and default has none"],
        ),
        ('[upstreams.c]\nurl = "http://x"\nmodels = ["m"]', ["upstreams.c.models", "only [upstream]"]),
        ('[[routes]]\npath = "/a"\nkeep_s = 1', ["routes.0", "keep_s", 'share = "url"']),
    ],
)
def test_mistake_is_named_with_what_is_allowed(write: Any, text: str, words: list[str]) -> None:
    """The key as the file has it, and what it takes; exit status 2, and no traceback."""
    result = check(write(text))
    assert result.exit_code == 2
    assert [word for word in words if word not in result.output] == []
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("STREAMTEE_LIMITS__STREAMS", "0", ["limits.streams", "greater than or equal to 1"]),
        ("STREAMTEE_LIMITS__STREAM", "1", ["limits.stream", "no such key"]),
        ("STREAMTEE_LISTEN", "here", ["listen", "HOST:PORT"]),
        ("STREAMTEE_AUTH__KEYS", "abc", ["STREAMTEE_AUTH__KEYS", "array", "JSON"]),
    ],
)
def test_mistake_in_the_environment_is_named(name: str, value: str, words: list[str]) -> None:
    """As one of the file is."""
    result = check(None, **{name: value})
    assert result.exit_code == 2
    assert [word for word in words if word not in result.output] == []
    assert "Traceback" not in result.output


def test_file_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    """It was asked for."""
    with pytest.raises(OSError, match="none"):
        load(tmp_path / "none.toml")
    assert check(tmp_path / "none.toml").exit_code == 2


def test_all_mistakes_are_told_at_once(write: Any) -> None:
    """So that nobody has to mend one to hear of the next."""
    output = check(write('drain_s = -1\nlog_level = "loud"\n[limits]\nstreams = 0\n')).output
    assert [key for key in ("drain_s", "log_level", "limits.streams") if key not in output] == []


# Secrets.


@pytest.mark.parametrize(
    "text",
    [
        f'[upstream]\nkey = "{SECRET}"',
        f'[upstream]\noutbound_proxy = "http://user:{SECRET}@127.0.0.1:3128"',
        f'[upstream]\nkey = "{SECRET}"\n[auth]\nmode = "keys"',
        f'[upstream]\nkey = ["{SECRET}"]',
        f'[upstream]\nurl = "https://user:{SECRET}@qwen.test"',
        f'[upstream]\nkey = {{ value = "{SECRET}" }}',
        f'[upstream]\noutbound_proxy = "socks5://user:{SECRET}@127.0.0.1:3128"',
        f'[upstream]\noutbound_proxy = "http://user:{SECRET}@127.0.0.1:3128/?a=b"',
        f'[upstream]\nkey = "{SECRET}"\nkye = "{SECRET}"',
        f'[auth]\nkeys = ["{SECRET}"]',
        f'upstream = "{SECRET}"',
        f'[capabilities]\nsecrets = ["{SECRET * 2}"]',
        f'[capabilities]\nsecrets = ["{SECRET}"]',
        f'[capabilities]\nsecrets = "{SECRET}"',
        f'[upstream]\nkey = "{SECRET}',
    ],
)
def test_secrets_are_not_printed(write: Any, text: str) -> None:
    """Not by check-config, in force or mistaken; not in the configuration's own words."""
    path = write(text)
    result = check(path)
    assert SECRET not in result.output
    assert SECRET not in str(result.exception)
    if result.exit_code == 0:
        config = load(path)
        assert SECRET not in repr(config) + str(config) + config.model_dump_json()


def test_secret_of_the_environment_is_not_printed() -> None:
    """The usual place for one."""
    result = check(None, STREAMTEE_UPSTREAM__KEY=SECRET)
    assert result.exit_code == 0
    assert SECRET not in result.output
    result = check(None, STREAMTEE_UPSTREAM__KEY=SECRET, STREAMTEE_DRAIN_S="-1")
    assert result.exit_code == 2
    assert SECRET not in result.output


def test_what_is_in_force_is_printed(write: Any) -> None:
    """All but the secrets, as JSON."""
    result = check(write("drain_s = 5\n"), STREAMTEE_LIMITS__STREAMS="9")
    told = json.loads(result.stdout)
    assert (told["drain_s"], told["limits"]["streams"]) == (5, 9)
    assert set(told) == set(Config().model_dump())


# Words.


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("localhost:65535", ("localhost", 65535)),
        ("[::1]:8080", ("::1", 8080)),
        ("[::]:80", ("::", 80)),
    ],
)
def test_address_is_split(text: str, split: tuple[str, int]) -> None:
    """An IPv6 host stands in brackets."""
    assert address(text) == split


@pytest.mark.parametrize("text", ["", "8080", ":8080", "host", "host:", "host:http", "host:-1", "host:65536", "host:²"])
def test_what_is_no_address_is_refused(text: str) -> None:
    """The message says what is one."""
    with pytest.raises(ValueError, match="HOST:PORT"):
        address(text)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("https://qwen.test", "/compatible-mode/v1"),
        ("https://qwen.test/", "/compatible-mode/v1"),
        ("https://qwen.test/v1", "/v1"),
        ("https://qwen.test/a/b/", "/a/b"),
    ],
)
def test_path_of_the_upstream_is_the_compatible_base(url: str, base: str) -> None:
    """A path of its own stands for the compatible mode's."""
    assert Config.model_validate({"upstream": {"url": url}}).upstream.compatible_base == base


@pytest.mark.parametrize("listen", ["0.0.0.0:8080", "[::]:8080", "192.0.2.1:8080", "proxy.example.com:8080"])
@pytest.mark.parametrize(
    "keyed", [{"upstream": {"key": "sk-x"}}, {"upstreams": {"a": {"url": "http://a", "key": "k"}}}]
)
def test_key_of_ours_is_not_for_everybody(listen: str, keyed: dict[str, Any]) -> None:
    """Off loopback and in mode pass, whoever reaches the port would use it; the error says the two ways out."""
    words = r"could use upstream(s\.a)?\.key: either set auth\.mode = \"keys\".*listen on 127\.0\.0\.1"
    with pytest.raises(ValidationError, match=words):
        Config(listen=listen, **keyed)
    for good in ("127.0.0.1:8080", "[::1]:8080", "localhost:8080", "127.0.0.2:0"):
        Config(listen=good, **keyed)
    Config(listen=listen)


def test_default_of_the_container_is_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its ports are open to others, so it takes callers' own keys; with a key of ours alone it does not start."""
    container = (FILE.parents[1] / "deploy" / "Containerfile").read_text()
    for name, value in re.findall(r"\b(STREAMTEE_\w+)=(\S+)", container):
        monkeypatch.setenv(name, value)
    config = load(FILE)
    assert not is_loopback(address(config.listen)[0])
    assert (config.auth.mode, config.upstream.key.get_secret_value()) == ("pass", "")
    assert not config.shares_anonymous
    monkeypatch.setenv("STREAMTEE_UPSTREAM__KEY", SECRET)
    result = check(FILE)
    assert result.exit_code == 2
    for words in ('auth.mode = "keys"', "listen on 127.0.0.1", "a container can not"):
        assert words in result.output
    monkeypatch.setenv("STREAMTEE_AUTH__MODE", "keys")
    monkeypatch.setenv("STREAMTEE_AUTH__KEYS", json.dumps([DIGEST]))
    assert check(FILE).exit_code == 0
