"""What goes upstream with a key of ours: what is listed, what is added, and no way around either."""

import pytest

from proxy.dialects.allowed_paths import AllowedMessages, AllowedPaths
from proxy.wire.errors import FileNotAllowed, PathNotAllowed, TaskNotAllowed, UnsupportedMediaType

NATIVE = "/api/v1/services"
LISTED = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/compatible-mode/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/responses/input_tokens"),
    ("POST", "/compatible-mode/v1/responses/compact"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages/count_tokens"),
    ("POST", "/v1/embeddings"),
    ("POST", "/compatible-mode/v1/embeddings"),
    ("POST", "/v1/reranks"),
    ("POST", "/compatible-api/v1/reranks"),
    ("POST", f"{NATIVE}/aigc/text-generation/generation"),
    ("POST", f"{NATIVE}/aigc/multimodal-generation/generation"),
    ("POST", f"{NATIVE}/embeddings/text-embedding/text-embedding"),
    ("POST", f"{NATIVE}/embeddings/multimodal-embedding/multimodal-embedding"),
    ("POST", f"{NATIVE}/rerank/text-rerank/text-rerank"),
    ("GET", "/v1/models"),
    ("HEAD", "/v1/models"),
    ("GET", "/v1/models/qwen3-max.1"),
]
UNLISTED = [
    ("GET", "/v1/files"),
    ("GET", "/v1/files/file-of-another/content"),
    ("DELETE", "/v1/files/file-of-another"),
    ("GET", "/v1/batches"),
    ("GET", "/v1/responses/resp_of_another"),
    ("GET", "/v1/chat/completions"),
    ("DELETE", "/v1/models/mine"),
    ("OPTIONS", "/v1/chat/completions"),
    ("TRACE", "/v1/models"),
    ("GET", "/api/v1/tasks/task-of-another"),
    ("POST", "/api/v1/tasks/task-of-another/cancel"),
    ("POST", "/api/v1/tokens"),
    ("GET", "/api/v1/deployments"),
    ("POST", f"{NATIVE}/aigc/text2image/image-synthesis"),
    ("POST", "/api/v1/apps/a/sessions"),
    ("POST", "/api/v1/apps/0123abcd/completion"),  # it may go on with a conversation of another
    ("GET", "/compatible-mode/v2/models"),
    ("POST", "/compatible-api/v1/files"),
    ("GET", "/api/v1/mcps/WebSearch/sse"),
    ("POST", "/v1/conversations"),
    ("GET", "/api/v1/uploads"),
]
WAYS_AROUND = [
    "/v1/models/../files",
    "/v1/models/..",
    "/v1/models/.",
    "/v1/models/%2e%2e%2ffiles",
    "/v1/models/..%2ffiles",
    "/v1/models/x%2f..%2f..%2ffiles",
    "/v1/models/%252e%252e%252ffiles",
    "/v1/models/..;/files",
    "/v1/models/x;/../files",
    "/v1/models/..\\files",
    "/v1/models/%5c..%5cfiles",
    "/v1/models//files",
    "/v1//files",
    "//v1/models",
    "/v1/models/x#/../files",
    "/v1/models/x\n",
    "/v1/models\n",
    "/v1/models/ｘ",
    "/v1/models/\ufe0e\ufe0e/files",
    "/V1/models",
    "/v1/models/",
]


def is_allowed(allowed: AllowedPaths, method: str, path: str) -> bool:
    try:
        allowed.check(method, path)
    except PathNotAllowed:
        return False
    return True


@pytest.mark.parametrize(("method", "path"), LISTED)
def test_generations_and_what_belongs_to_nobody_are_allowed(method: str, path: str) -> None:
    """By the method that they are asked by."""
    assert is_allowed(AllowedPaths(()), method, path)


@pytest.mark.parametrize(("method", "path"), UNLISTED)
def test_what_may_be_somebody_elses_is_not(method: str, path: str) -> None:
    """Nor what changes the account, nor a listed path by another method; it is said which key could allow it."""
    with pytest.raises(PathNotAllowed, match=rf"{method} {path} .* upstream\.paths"):
        AllowedPaths(()).check(method, path)


@pytest.mark.parametrize("path", WAYS_AROUND)
@pytest.mark.parametrize("added", [(), ("/v1/models/",)])
def test_no_spelling_leads_around_the_list(path: str, added: tuple[str, ...]) -> None:
    """Neither around what is listed nor out of a folder that was added."""
    folder = added and path == "/v1/models/"
    assert is_allowed(AllowedPaths(added), "GET", path) == bool(folder)


def test_added_paths_are_allowed_by_any_method() -> None:
    """A path as it is, a folder with all below it; nothing beside them, nothing that only begins so."""
    allowed = AllowedPaths(("/v1/files/", "/api/v1/tasks", "/compatible-mode/v2/x"))
    for path in ("/v1/files/", "/v1/files/a", "/compatible-mode/v1/files/a/content", "/api/v1/tasks"):
        assert all(is_allowed(allowed, method, path) for method in ("GET", "POST", "DELETE")), path
    for path in ("/v1/files", "/v1/filesystem", "/v1/files/../batches", "/api/v1/tasks/1", "/api/v1/tasks/", "/v2/x"):
        assert not is_allowed(allowed, "GET", path), path
    assert is_allowed(allowed, "POST", "/v1/chat/completions")


FILE = (
    b'{"model":"qwen-long","messages":[{"role":"system","content":"fileid://file-fe-1"},{"role":"user","content":"?"}]}'
)


@pytest.mark.parametrize(
    "body",
    [
        FILE,
        FILE.replace(b'"fileid', b'" \\n fileid'),
        FILE.replace(b"://", b":\\/\\/"),
        FILE.replace(b"fileid:", b"\\u0066ile\\u0069d\\u003A"),
        FILE.replace(b"://", b":\\u002f\\u002F"),
        FILE.replace(b"fileid", b"FileID"),
        b'{"input":[{"content":[{"type":"input_file","file_id":"file-fe-1"}]}]}',
        b'{"input":[{"content":[{"type":"input_image", "file_id" :\n "file_1"}]}]}',
        b'{"messages":[{"content":[{"type":"document","source":{"type":"file","file_id":"file_011C"}}]}]}',
        b'{"messages":[{"content":[{"type":"file","file":{"file_id":"file-1"}}]}]}',
        b'{"messages":[{"content":[{"file\\u005fid":"\\u0066ile\\u002dfe-1"}]}]}',
        b'{"rag_options":{"session_file_ids":["file_session_1"]}}',
        b'{"tools":[{"type":"code_interpreter","container":{"file_ids":["", "file-1"]}}]}',
        b'{"container":{"file_ids":[%b"file-1"]}}' % (b" \n" * 300),
        b'{"container":{"file_ids":["%b","file-1"]}}' % (b"x" * 300),
        b'{"file":{"file_id"%b:%b"file-1"}}' % (b"\t" * 3000, b" " * 3000),
        FILE.replace(b"fileid", b"\\u0020\\u00A0fileid"),
        FILE.replace(b"fileid", "\u3000\xa0\ufefffileid".encode()),
    ],
)
def test_body_that_refers_to_a_file_is_refused(body: bytes) -> None:
    """However it is spelled: under one key the file may be anybody's."""
    with pytest.raises(FileNotAllowed, match=r"upstream\.paths"):
        AllowedPaths([]).check_body(body)


@pytest.mark.parametrize("size", [1, 7, 100, 5000])
def test_reference_is_found_wherever_a_body_is_cut(size: int) -> None:
    """Also when there is more white space within it than a piece has bytes."""
    body = b'{"tools":[{"x":"%b","file_ids" : [%b"\\u0066ile-1"]}]}' % (b"y" * 9000, b" " * 9000)
    check = AllowedPaths([]).body_check()

    def come() -> None:
        for at in range(0, len(body), size):
            check.check(body[at : at + size])

    with pytest.raises(FileNotAllowed):
        come()


@pytest.mark.parametrize("coding", ["utf-16-le", "utf-16-be", "utf-32"])
def test_body_that_is_not_in_utf_8_is_refused(coding: str) -> None:
    """Some servers read JSON in UTF-16, in which a file is spelled otherwise."""
    with pytest.raises(UnsupportedMediaType):
        AllowedPaths([]).check_body(FILE.decode().encode(coding))


@pytest.mark.parametrize("added", ["/v1/files/", "/v1/files"])
def test_body_may_refer_to_a_file_where_files_are_allowed(added: str) -> None:
    """Whoever opens them to all callers has decided that."""
    AllowedPaths([added]).check_body(FILE)


@pytest.mark.parametrize(
    "text",
    [
        b"what does fileid:// mean?",
        b'code: x = \\"fileid://a\\"',
        b"\\u0022fileid://a\\u0022",
        b"\\u4f60\\u597d",
        b'{\\"file_id\\": \\"file-1\\"}',
        b"file_id: file-1",
        b'"},{"input":{"file_id":"1AbC"},"content":"',
        b'"},{"input":{"file_ids":["1AbC", "2"]},"content":"',
    ],
)
def test_text_that_tells_of_such_references_is_none(text: bytes) -> None:
    """An agent that read this file can go on with its conversation."""
    AllowedPaths([]).check_body(b'{"messages":[{"role":"user","content":"%b"}]}' % text)


@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip", "GZIP", "utf-8"])
def test_body_that_cannot_be_read_is_refused(coding: str) -> None:
    """It may refer to a file, or to another caller's response."""
    for paths in ([], ["/v1/files/"]):
        with pytest.raises(UnsupportedMediaType, match="must not be compressed"):
            AllowedPaths(paths).check_coding([coding], [])
    AllowedPaths([]).check_coding([" Identity "], [])


STORES = [
    b'{"tools":[{"type":"file_search","vector_store_ids":["vs_1"]}]}',
    b'{"tools":[{"type":"file_search","vector_store_ids" : [ "vs_1"]}]}',
    b'{"tool_resources":{"file_search":{"vector_store_id":"vs_1"}}}',
    b'{"tools":[{"vector\\u005fstore_ids":["1"]}]}',
]
UPLOADS = [
    b'{"input":{"messages":[{"content":[{"image":"oss://dashscope-instant/x.png"}]}]}}',
    b'{"url":"OSS:\\/\\/x"}',
    b'{"url":" \\u006fss://x"}',
]


@pytest.mark.parametrize("body", STORES + UPLOADS)
def test_body_that_refers_to_what_is_stored_is_refused(body: bytes) -> None:
    """A store of files, or a file that was uploaded for a moment."""
    with pytest.raises(FileNotAllowed):
        AllowedPaths(["/v1/files/"]).check_body(body)
    AllowedPaths(["/v1/files/", "/v1/vector_stores/", "/api/v1/uploads"]).check_body(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"tools":[{"function":{"parameters":{"properties":{"vector_store_ids":{"type":"array"}}}}}]}',
        b'{"messages":[{"content":"what is an oss:// URL, and {\\"vector_store_ids\\":[\\"a\\"]}?"}]}',
        b'{"vector_store_ids":[]}',
        b'{"vector_store_ids":null}',
    ],
)
def test_body_that_only_speaks_of_it_is_not(body: bytes) -> None:
    """A tool of the client's, a question about it, an empty list."""
    AllowedPaths([]).check_body(body)


def test_session_names_only_the_tasks_that_it_began() -> None:
    """And refers to no file, as a body may not."""
    messages = AllowedMessages(AllowedPaths([]))
    messages.check(b'{"header":{"action":"run-task","task_id":"mine"},"payload":{}}')
    for action in (b"continue-task", b"finish-task"):
        messages.check(b'{"header":{"action":"%b","task_id":"mine"}}' % action)
        for task in (b'"theirs"', b"7", b'["mine"]'):
            with pytest.raises(TaskNotAllowed):
                messages.check(b'{"header":{"action":"%b","task_id":%b}}' % (action, task))
    with pytest.raises(FileNotAllowed):
        messages.check(b'{"type":"conversation.item.create","item":{"content":[{"file_id":"file-1"}]}}')
    for other in (b"no JSON", b"[]", b'{"type":"response.create"}', b'{"header":7}'):
        messages.check(other)
