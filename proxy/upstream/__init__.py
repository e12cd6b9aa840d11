"""Floor 4: upstream. Sends requests, receives their responses, and appends response bodies to logs of streams.

Must not know: clients, followers, the hub, the room `downstream`, the configuration (but for `settings`).

Read in this order:

* `connection`: one connection; `exchange`: one request and its response on it, with its time-outs; `pool`: the
  connections to one server
* `tls`: whose certificates are trusted, and which one is shown
* `request_queue`, `breaker`: limit how many requests an upstream gets, and stop requests to one that fails
* `upstream`: a configured upstream with its key, its queue and its breaker
* `backoff`: how long to wait before a retry; `group`: an upstream and its spares, which decides on retries
* `stream_writer`: what the writers of streams have in common: how they stop, and end their stream
* `pump`: the writer of a stream that is one response; `bypass`: its fast path to a follower, or to a rank
* `broadcast`: the writer of a stream without end, which reconnects
* `session`: the writer of a stream that is a WebSocket session; `session_log`: what its upstream says, as its API means
  it
* `on_disconnect`: the policy for when the last follower of a stream leaves
* `settings`: the configuration's tables of upstreams, models, time-outs, retries and breakers
"""
