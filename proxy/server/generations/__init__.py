"""Generation requests: POST requests that respond with generated text, as a stream or as one JSON document.

Requests on configured routes with `record = true` are served here, too.

Must not know: how streams are followed (the folder beside this).

Read in this order:

* `generate`: the handler
* `request`: reads a generation request and rewrites it for the upstream; `options`: the options in its headers
* `response`: the response to a generation request; `early_head`: begins it before the upstream has responded
* `shared_calls`: upstream calls that several requests share; `retries`: finds the call that a client's retry continues
"""
