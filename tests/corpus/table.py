"""All entries of the corpus: by dialect, then by name."""

from proxy.dialects.chat import CHAT
from proxy.dialects.dashscope import DASHSCOPE
from proxy.dialects.messages import MESSAGES
from proxy.dialects.responses import RESPONSES
from tests.corpus import calls, documents, failures, further, native, texts
from tests.corpus.blocks import BLOCKS
from tests.corpus.items import ITEMS

DIALECTS = {"chat": CHAT, "native": DASHSCOPE, "responses": RESPONSES, "messages": MESSAGES}
CORPUS = {
    "chat": failures.ENTRIES | texts.ENTRIES | calls.ENTRIES | documents.ENTRIES | further.CHAT,
    "native": native.ENTRIES | further.NATIVE,
    "responses": ITEMS,
    "messages": BLOCKS,
}
