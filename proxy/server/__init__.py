"""Floor 6: the HTTP surface. The handlers of the routes in the README's table, and app.py, which connects all parts.

Must not know: how an API writes its chunks (room `dialects`), how events reach followers (room `stream`).

Read in this order:

* `app`: makes all parts, connects them, listens; `config`: the complete configuration
* `routes`: finds the handler of a path, and has each request admitted (`access.admission`); `cors`: access from pages
  of other origins; `headers`: the table of all header names that the proxy treats specially
* `generate`: the handler of generation requests; `generation_request`: reads and rewrites one; `generation_options`:
  the options in its headers; `generation_response`: its response; `shared_calls`: one upstream call shared by several
  requests
* `follow`: the handler that follows a stream; `follow_request`: the view, cursor and times in its query and headers
* `control`: shows, cancels, deletes and shares streams, by id or key
* `delivery`, `document`: deliver a stream to a client, as a stream or as one JSON document
* `pass_through`: the handler of all other requests to an API; `shared_routes`: configured routes whose clients follow
  one upstream event stream
* `upstreams`: makes the configured upstreams; `json_responses`: the proxy's own JSON, and errors
* `admin`: the admin port
"""
