"""Generation requests: POST requests that respond with generated text, as a stream or as one JSON document.

Requests on configured routes with `record = true` are served here, too.

Must not know: how streams are followed (the folder beside this).

Read in this order:

* `generate`: the handler; `unshared`: the usual way, a call for its client alone
* `reader`: reads a generation request and rewrites it for the upstream; `options`: the options in its headers;
  `request`: the request as it was read, and how it is sent upstream
* `response`: the response to a generation request; `early_head`: begins it before the upstream has responded
* `call_finder`: finds the upstream call that a request shares, or begins one; `shared_calls`: what such calls are;
  `retries`: finds the call that a client's retry continues; `pumps`: begins the streams of calls
"""
