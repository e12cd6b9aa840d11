"""Floor 6: the HTTP surface. The handlers of the routes in the README's table, and app.py, which connects all parts.

Must not know: how an API writes its chunks (room `dialects`), how events reach followers (room `stream`).

Read in this order:

* `app`: makes all parts, connects them, listens; `config`: the complete configuration; `reload`: changes it in place
* `routes`: finds the handler of a path, and has each request admitted (`access.admission`); `cors`: access from pages
  of other origins; `headers`: the table of all header names that the proxy treats specially
* `generations`: generation requests, a folder of their own; `following`: requests about streams that exist, another
* `delivery`, `document`: deliver a stream to a client, as a stream or as one JSON document; `response_object`: tells of
  a response as its API does, at any time
* `pass_through`: the handler of all other requests to an API
* `upstreams`: makes the configured upstreams; `json_responses`: the proxy's own JSON, and errors
* `admin`: the admin port
"""
