"""Floor 4: downstream. Reads the requests of clients, and writes bytes as responses to their sockets.

Must not know: upstreams, the hub, what the bytes mean.

Read in this order:

* `response`: one response to one client, the sink of a subscription
* `websocket`: the same over a WebSocket; `shared_connection`: one connection for several streams; `client_socket`: a
  WebSocket that carries messages both ways; `switched`: what both WebSockets have in common
* `site`: where a port listens
* `listener`: the server of a port, and its responses to requests that can't be parsed; `request_errors`: the errors
  of these
* `connection`: one connection of a client, from one request to the next; `client_protocol`: what the event loop and
  aiohttp's parser, readers and writers call of it
  `request_pieces`: cuts a read into its requests; `known_heads`: what was parsed of a head that comes again
* `movable`: connections that can be handed to another process
* `client_connections`: the time-outs of all connections, and the bytes held for them; `descriptors`, `unsent`: what the
  operating system reports about them
* `tls`: the certificate of a port, and those that clients show
* `request`: the request of a client; `request_body`: reads its body
"""
