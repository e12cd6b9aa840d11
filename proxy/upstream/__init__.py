"""Floor 4: upstream. From a request to the head of its response, and from the body into a stream's log.

Must not know: clients, followers, the hub, the room `downstream`, the configuration (but for `settings`).

Read in this order:

* `connection`: one connection; `exchange`: one request and its response on it; `pool`: the connections to one server
* `upstream`: a configured upstream with its key, the `request_queue` before it and its circuit `breaker`
* `group`: an upstream and its spares as one; asks again where that is worth it, after a `backoff`
* `stream_writer`: how every writer of a stream leaves, and ends it; `on_disconnect`: what happens when nobody follows
* `pump`: the writer of a stream that is one answer; `bypass`: the short way to a lone follower
* `broadcast`: the writer of a stream that never ends
* `settings`: its tables of the configuration
"""
