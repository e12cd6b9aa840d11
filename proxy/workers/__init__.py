"""Floor 7: workers. Several processes that serve one address of one machine (docs/workers.md).

Must not know: how streams are served. Each worker is a whole proxy (room `server`); here is which of them a request
belongs to, and how it gets there: with its connection, before anything has been done for it.

Read in this order:

* `ids`: in which worker a stream is, by its id; `names`: which worker a name belongs to, by its hash. A name is a
  Stream-Key, or what requests share a call by: an Idempotency-Key, a body, a URL
* `membership`: which workers there are, as each of them knows it
* `handover`: hands a client's connection to another worker; `relay`: carries its bytes, where TLS ends here
* `owners`: decides which worker a stream, a name or a request belongs to; `placement`: serves requests there, or hands
  them over; `follow_several`: for streams of several workers at once
* `peers`, `inner`: what workers ask each other, and what each answers
* `worker`: one worker's life; `shares`: its share of the configured limits
* `counting`: a folder, for what callers with limits have used, of all workers
* `supervisor`: the parent of all; `process`: a worker as it sees it; `channel`: what they tell each other; `listening`:
  the sockets at which workers accept clients
* `admin_port`: the one admin port, which the supervisor serves; `merged_page`: the metrics of all workers as one page;
  `merged_overview`: what the console shows of all
"""
