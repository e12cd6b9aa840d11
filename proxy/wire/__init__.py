"""Floor 1: bytes. Parsers and writers of HTTP, SSE and WebSocket.

Must not know: any API, the meaning of an event's data, sockets, time, logging. Everything here is a pure function or a
small parser.

Read in this order:

* `errors`: every error that a client can receive, grouped by whose fault it is
* `sse`: cuts a body into frames (SSE blocks), reads their fields, adds an `id:` line, replaces their data
* `event_id`: the ids of events, by which clients resume
* `reconnection`: what an EventSource remembers between two connections
* `http`: which headers a proxy forwards, and how a body is framed
* `request_end`: finds where a request ends in the bytes of its connection
* `json_text`: reads and writes JSON as upstreams send it, which strict parsers refuse in part or change
* `json_size`: whether a JSON text has so few values that it is read in a short time
* `json_members`: replaces members of a JSON object in its text and leaves every other byte as it is
* `websocket`: the handshake and the frames of RFC 6455
"""
