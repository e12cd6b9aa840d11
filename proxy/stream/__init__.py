"""Floor 3: streams. The log, the cursors in it, and the modes in which it is read.

Must not know: sockets, HTTP responses, upstreams, clocks. Times and timers are handed in.

Read in this order:

* `stream`: one stream, its followers, and how a frame reaches each of them
* `log`: append-only frames, sealed once with an Ending; `endings`: the table of these, and what follows from each
* `ledger`: how much memory is held, of which kind, and what is done when it is too much
* `cohort`: which followers are advanced together; on top of it the states of a follower, and what each event does to it
* `subscription`: one follower, a cursor; `rank`: followers that are written to as one
* `event_id`: what clients resume by
* `projections`: the modes, each a pure function of a span of the log to bytes; `websocket`: modes as messages
* `transcript`, `channel`, `rewriting`: what was said so far, and how modes that rewrite take their text from it
* `info`: what a stream is called, whose it is, and how it was asked for
* `hub`: where streams begin, are found, while they run and while they are kept, and end; `observer`: who is told of it
* `interfaces`: what a stream is connected to at either end
* `turns`: work for clients that waits, so that none of them holds the event loop
* `background`: a loop that goes on after a turn that failed; higher rooms run theirs by it, too
* `vitals`: what is measured of a stream
"""
