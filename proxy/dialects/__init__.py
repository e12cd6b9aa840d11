"""Floor 2: dialects. All that is known of each API: how it writes chunks, text, usage, errors, and its last word.

Must not know: logs, followers, sockets, time. Nothing above this room names an API.

Read in this order:

* `table`: the APIs, a row each: where they are served, by which dialect, which headers count. A new one is a row here
  and a module like `chat`
* `dialect`: the questions that the rest of the proxy asks of an API
* `increment`: what one frame adds to an answer, in any API, and who makes a document of it
* `chat`: OpenAI's chat completions, which Qwen's compatible mode speaks; `choices` and `delta`: answers of its shape
* `dashscope`: DashScope's native API
* `reader`: what their readers have in common; `generated`, `failure`: text and errors wherever they stand in JSON
* `plain`: event streams of any other kind; `error_shape`: the errors that chat and they have alike
* `route`: a path prefix, the API behind it, and where it leads upstream; `allowed_paths`: what may be asked for with a
  key of ours; `presets`: the names of Qwen's hosts
* `credentials`: the headers in which keys are shown
* `refusal`, `error_codes`: what an upstream's refusal says, and what Qwen's error codes mean
"""
