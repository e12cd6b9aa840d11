"""Floor 4: downstream. From bytes to a client's socket, and a client's body from it.

Must not know: upstreams, the hub, what the bytes mean.

Read in this order:

* `listener`: the connections of clients, and how requests are refused that can't be read
* `response`: one response to one client, as a sink of a subscription
* `websocket`: the same over a WebSocket
* `request_body`: reading what a client sends
* `client_connections`: the time-outs of all connections, and what is held of them; `descriptors`, `unsent`: what the
  system tells of them
* `inline`: lets aiohttp handle a request without a task of its own
"""
