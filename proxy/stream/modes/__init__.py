"""Modes: in which forms followers read a stream. Each is a pure function of a span of the log to bytes.

Must not know: followers, writers, where the bytes go. A `Source` is what a mode reads of a stream.

Read in this order:

* `projection`: what a mode is; `projections`: the modes, and their table
* `rewriting`: frames in which texts are replaced, for the modes that change texts; `transcript`: the text of the answer
  so far; `channel`: one channel of it (content, reasoning, arguments of a tool call)
* `envelopes`: modes as WebSocket messages, and with the stream's id in each event
"""
