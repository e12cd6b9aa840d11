"""Floor 3: streams. The log, the followers that read it, and the modes in which they read it.

Must not know: sockets, HTTP responses, upstreams, clocks. Times and timers are passed in.

Read in this order:

* `stream`: one stream, its followers, and how a frame reaches each of them; `bounded`: its base, what it holds in
  memory, and how that is kept within limits
* `log`: append-only frames, sealed once with an Ending; `endings`: the table of all endings and their properties, to
  which every new time-out or failure is added
* `ledger`: how much memory is held, by kind, and what is done when it is too much
* `cohort`: which followers are advanced together; its docstring lists the states of a follower and their transitions
* `subscription`: one follower; `rank`: followers that are written to together
* `modes`: a folder, for the forms in which followers read a stream
* `info`: the record of a stream: its id, owner, keys and limits
* `hub`: begins streams, finds them while they run and while they are kept, ends them; `observer`: those it notifies;
  `keys`: finds streams by their callers' keys, and notifies those who wait for one; `ended`: the streams that are kept
* `interfaces`: the protocols of what a stream is connected to: sinks, writers, the bypass
* `turns`: a queue of work that is done for clients, so that none of them occupies the event loop for long
* `faults`: logs unexpected exceptions, so that they affect nobody else, and end no loop in the background; higher rooms
  use it, too
* `vitals`: times and counts of a stream
"""
