"""Floor 5: access. Who a caller is, and what a request may do.

Must not know: how requests are answered. Keys and tokens are compared as digests and never reach a log or a metric.

Read in this order:

* `callers`: who a caller is, by its key
* `capabilities`: signed tokens for one stream
* `settings`: its tables of the configuration
"""
