"""Floor 5: access. Who a caller is, what a request may do, and whether the limits leave room for it.

Must not know: how responses are made. Keys and tokens are compared in constant time, as digests or signatures, and
never reach a log or a metric.

Read in this order:

* `admission`: admits each request once, before its handler runs, and gives the handler its caller
* `callers`: identifies the caller by the keys in the request's headers
* `grants`: access to streams of other callers: checks the token of a request, and issues new tokens
* `capabilities`: signs and verifies tokens, each for one stream
* `response_ids`: the ids that upstreams give responses: whose they are, and which a caller may name
* `pages`: which web pages may send requests that use a key of ours, and which host names a port accepts
* `client_addresses`: where clients are, also behind an edge, for the log
* `settings`: this room's tables of the configuration
"""
