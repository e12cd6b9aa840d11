"""Floor 6: the HTTP surface. The handlers of the routes in the README's table, and what makes and connects all parts.

Must not know: how an API writes its chunks (room `dialects`), how events reach followers (room `stream`).

Read in this order:

* `app`: makes the parts of the proxy, connects them, listens, and stops; `config`: the complete configuration;
  `configuration`: a folder, for what is around it: mistakes in words, places, secrets from files; `reload`: changes
  the configuration of a running proxy
* `route_table`: makes the handlers, and adds each with its method and path
* `routes`: finds the handler of a request, and has the request admitted first (`access.admission`); `cors`: access
  from pages of other origins; `headers`: the table of all header names that the proxy treats specially
* `generations`: a folder, for generation requests; `following`: a folder, for requests about streams that exist
* `delivery`, `document`: deliver a stream to a client, as a stream or as one JSON document; `response_object`: the
  JSON object with which an API describes a response, finished or not
* `pass_through`: the handler of all other requests to an API; `sockets`: of WebSockets among them
* `directory`: connects to the store that several processes share, and finds streams of others there
* `models`: the upstreams that serve configured models, and the list of these
* `placement`: what the routes ask where several workers serve one machine
* `upstreams`: makes the configured upstreams; `json_responses`: the proxy's own JSON, and errors
* `admin`: a folder, for the admin port
* `ports`: the servers of the two ports: where they listen, and their TLS
* `observers`: who is notified when a stream begins, is answered, and ends
* `callers`: a folder, for who sends requests: what identifies them, and what they have used
"""
