"""All entries of the corpus: by dialect, then by name."""

from proxy.dialects.chat import CHAT
from proxy.dialects.dashscope import DASHSCOPE
from tests.corpus import calls, documents, failures, further, native, texts

DIALECTS = {"chat": CHAT, "native": DASHSCOPE}
CORPUS = {
    "chat": failures.ENTRIES | texts.ENTRIES | calls.ENTRIES | documents.ENTRIES | further.CHAT,
    "native": native.ENTRIES | further.NATIVE,
}
