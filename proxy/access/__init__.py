"""Floor 5: access. Who a caller is, what a request may do, and whether there is room for it.

Must not know: how requests are answered. Keys and tokens are compared as digests and never reach a log or a metric.

Read in this order:

* `admission`: the one door, through which each request comes once, and its handler is given the caller
* `callers`: who a caller is, by the keys that its request shows
* `grants`: what a request may have of streams that are not its caller's, and the tokens it is given for others
* `capabilities`: signed tokens for one stream
* `pages`: what web pages may have done with a key of ours, and the names that a port answers for
* `settings`: its tables of the configuration
"""
