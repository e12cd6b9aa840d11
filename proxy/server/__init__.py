"""Floor 6: the HTTP surface. A handler for each row of the README's table, and app.py, which connects all parts.

Must not know: how an API writes its chunks (room `dialects`), how events reach followers (room `stream`).

Read in this order:

* `app`: makes the parts, hands each what it needs, listens; `config`: the whole configuration
* `routes`: from a path to its handler, through the one door (`access.admission`); `cors`: what pages of other origins
  may read; `headers`: the one table of our header names
* `generate`: asks for a generation; `generation_request` and `generation_options`: what was asked for;
  `generation_response`: how its client is answered; `shared_calls`: one upstream call for several requests
* `follow`: follows a stream; `follow_request`: what a follower asks for; `control`: what is told of streams, and
  cancelling, deleting and sharing them
* `delivery`, `document`: how an answer reaches its client, as a stream or as one JSON document
* `pass_through`: every other request; `shared_routes`: routes of the user's own
* `upstreams`: makes the configured upstreams; `json_responses`: our own JSON; `admin`: the admin port
"""
