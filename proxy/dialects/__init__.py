"""Floor 2: dialects. All that is known of each API: the format of its requests, chunks, usage, errors, and endings.

Must not know: logs, followers, sockets, time. Nothing above this room names an API.

Read in this order:

* `table`: the APIs, one row each: where each is served, its dialect, its headers. A new API is a row here and a module
  like `chat`
* `dialect`: the protocols that each API implements for the rest of the proxy
* `chat`: OpenAI's chat completions, which Qwen's compatible mode implements
* `chunks`: a folder, for the chunks of its streams
* `dashscope`: DashScope's native API; `realtime`: WebSocket sessions
* `responses`, `response_reader`: OpenAI's Responses, which Qwen's compatible mode also implements
* `messages`: Anthropic's Messages
* `documents`: a folder, for what frames add to a response, and the finished documents they add up to
* `reader`: the base class of the dialects' readers, which follow a stream frame by frame: finish reasons, usage, the
  first error, and recognising frames that need no parsing
* `usage`: token counts in the spellings of the APIs; `allowance`: the headers that tell what a caller's limits leave
* `generated`, `failure`: find generated text and errors in the many forms in which upstreams send them
* `plain`: event streams of unknown APIs
* `question`: how clients ask an API for a stream, as the commands and the console do
* `route`: a path prefix, its API, and the path it stands for upstream; and the headers that carry API keys
* `allowed_paths`: which requests may be sent with the proxy's own key; `presets`: the names of Qwen's hosts
* `error_codes`: what Qwen's error codes mean
"""
