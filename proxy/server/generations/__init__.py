"""Generation requests: POST requests that respond with generated text, as a stream or as one JSON document.

Requests on configured routes with `record = true` are served here, too.

Must not know: how streams are followed (the folder beside this).

Read in this order:

* `generate`: the handler
* `request`: reads a generation request and rewrites it for the upstream; `options`: the options in its headers
* `response`: the response to one; `early_head`: its beginning before the upstream has responded
* `shared_calls`: one upstream call shared by several requests; `retries`: that of a lost client, by its retry
"""
