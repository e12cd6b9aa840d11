"""Floor 4: store. Logs that several nodes share: what the owner of a stream writes, and what others read of it.

A node is one process of the proxy. The node that reads a stream's upstream is its owner; at any other node where the
stream is followed, a replica of its log is fed from the store. Without a configured store none of this is used.
Must not know: upstreams, clients, the hub, the room `server`.

Read in this order:

* `entries`: what a log is made of in the store: entries, whose ids carry the position in the stream; pure
* `store`: the interface of a store, and what can be written to one
* `redis_store`: a store in Redis; `redis_client`: the connections to Redis, by the scheme of a URL; `redis_wires`: many
  commands and replies at once on each of them
* `encrypted_store`: the same, with content that only who has a key can read; `cipher`: encrypts it
* `outbox`: what of one stream is yet to be written, the owner's side; `publisher`: writes that of all streams
* `replica`: a stream that is fed from the store, the follower's side; `tail`: reads the logs of all replicas;
  `replicas`: finds streams of other nodes, and drops them when nobody follows
* `leases`: which nodes are alive, and what becomes of the streams of those that are not
* `node`: one process among several: makes and connects all of these, and reads the messages that it is sent
* `counts`: counts that all nodes share, such as what a caller has used of its limits
* `claims`: which node makes the upstream call of a name that several were asked for
* `settings`: the configuration's table of the store
"""
