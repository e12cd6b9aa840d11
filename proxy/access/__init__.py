"""Floor 5: access. Who a caller is, what a request may do, and whether the limits leave room for it.

Must not know: how responses are made. Keys and tokens are compared in constant time, as digests or signatures, and
never reach a log or a metric.

Read in this order:

* `admission`: admits each request once, before its handler runs, and gives the handler its caller
* `callers`: the kinds of callers; identifies the caller by the keys in the request's headers
* `known_callers`: the callers that have names: from `key_file` (keys of ours, by their digests), `certificates` of
  clients, and `identity_hook` (an endpoint of the operator's that is asked)
* `account`: what a caller has used of its `limits`, in `windows` of a minute and a day, and what it has at once, in
  `gauges`; `accounts`: those of all; `sums`: what was used and is held at all processes together; `usage_file`: what
  was used of the day
* `grants`: access to streams of other callers: checks the token of a request, and issues new tokens
* `capabilities`: signs and verifies tokens, each for one stream
* `response_ids`: the ids that upstreams give responses: whose they are, and which a caller may name
* `operators`: access to the admin port, by its token
* `pages`: which host names a port serves, and which web pages may send requests that use a key of the proxy's own
* `client_addresses`: the addresses of clients, also behind other proxies, for the log
* `settings`: this room's tables of the configuration
"""
