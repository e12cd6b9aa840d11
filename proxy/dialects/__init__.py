"""Floor 2: dialects. All that is known of each API: the format of its requests, chunks, usage, errors, and endings.

Must not know: logs, followers, sockets, time. Nothing above this room names an API.

Read in this order:

* `table`: the APIs, one row each: where each is served, its dialect, its headers. A new API is a row here and a module
  like `chat`
* `dialect`: the protocols that each API implements for the rest of the proxy
* `increment`: what one frame adds to a response, in any API, and how a finished document is assembled
* `chat`: OpenAI's chat completions, which Qwen's compatible mode implements
* `choices`, `delta`: responses that consist of choices, as in both of Qwen's APIs; a delta is what one chunk adds to a
  choice
* `dashscope`: DashScope's native API; `realtime`: WebSocket sessions
* `responses`, `response_documents`: OpenAI's Responses, which Qwen's compatible mode also implements
* `messages`, `blocks`: Anthropic's Messages: events with types, for a message that consists of content blocks
* `reader`: the base class of the dialects' readers, which follow a stream frame by frame: finish reasons, usage, the
  first error, and recognising frames that need no parsing
* `generated`, `failure`: find generated text and errors in the many forms in which upstreams send them
* `plain`: event streams of unknown APIs
* `route`: a path prefix, its API, and the path it stands for upstream; and the headers that carry API keys
* `allowed_paths`: which requests may be sent with the proxy's own key; `presets`: the names of Qwen's hosts
* `error_codes`: what Qwen's error codes mean
"""
