"""Floor 1: bytes. Parsers and writers of HTTP, SSE and WebSocket.

Must not know: any API, the meaning of an event's data, sockets, time, logging. All of it is pure functions and small
parsers.

Read in this order:

* `sse`: cuts a body into frames (SSE blocks), reads their fields, adds an `id:` line
* `http`: which headers cross a proxy, and how a body is framed
* `chunked`: recognises a read that is whole events in whole chunks
* `json_members`: the members of a JSON object, found in its text, to put some and touch no other
* `json_text`: reads and writes JSON without changing a number or an escape
* `websocket`: frames of RFC 6455
* `reconnection`: what an event source remembers between two connections
* `errors`: every error that a client can be told, by whose fault it is
"""
