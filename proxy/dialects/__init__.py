"""Floor 2: dialects. All that is known of each API: the format of its requests, chunks, usage, errors, and endings.

Must not know: logs, followers, sockets, time. Nothing above this room names an API.

Read in this order:

* `table`: the APIs, one row each: where each is served, its dialect, its headers. A new API is a row here and a module
  like `chat`
* `dialect`: the protocols that each API implements for the rest of the proxy
* `increment`: what one frame adds to a response, in any API, and how a finished document is assembled
* `chat`: OpenAI's chat completions, which Qwen's compatible mode implements
* `choices`, `delta`: responses that consist of choices, as those of both of Qwen's APIs do
* `dashscope`: DashScope's native API
* `responses`, `response_documents`: OpenAI's Responses, which Qwen's compatible mode implements, too
* `messages`: Anthropic's Messages: events with types; `blocks`: messages that consist of content blocks, as these do
* `reader`: what the readers of the dialects have in common
* `generated`, `failure`: find generated text and errors in any JSON that upstreams send
* `plain`: event streams of any other kind
* `route`: a path prefix, its API, and the path it stands for upstream; and the headers that carry API keys
* `allowed_paths`: which requests may be sent with the proxy's own key; `presets`: the names of Qwen's hosts
* `refusal`, `error_codes`: what an upstream's error response says, and what Qwen's error codes mean
"""
