"""What frames add to a response, and the finished documents they add up to: the part of an API that modes need.

Finds texts in frames, and replaces them; keeps none: `stream.modes.transcript` does. Knows nothing of requests and
errors.

Read in this order:

* `increment`: what one frame adds, in any API: texts for channels; and how a finished document is assembled
* `choices`, `delta`: responses that consist of choices, as in chat completions and DashScope's native API; a delta is
  what one chunk adds to a choice; `calls`: which tool call each fragment belongs to
* `response_documents`: responses that consist of items, as OpenAI's Responses
* `blocks`: messages that consist of content blocks, as Anthropic's Messages
"""
