"""Floor 4: downstream. Reads the requests of clients, and writes bytes as responses to their sockets.

Must not know: upstreams, the hub, what the bytes mean.

Read in this order:

* `response`: one response to one client, the sink of a subscription
* `websocket`: the same over a WebSocket; `shared_connection`: one connection for several streams; `client_socket`: a
  WebSocket that carries messages both ways
* `listener`: the connections of clients, and the error responses to requests that can't be parsed
* `client_connections`: the time-outs of all connections, and the bytes held for them; `descriptors`, `unsent`: what the
  operating system reports about them
* `request_body`: reads the body of a request
* `inline`: lets aiohttp handle a request without a task of its own
"""
