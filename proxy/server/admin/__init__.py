"""The admin port, for operators: probes, metrics, the streams of all callers, a live feed, and the console.

Who may is decided in `access.operators`: probes, metrics and the console's files are open, all else needs the admin
token. Nothing here is on the way of an event or a request of the data port.

Read in this order:

* `paths`: the paths of the admin port, and the headers that all responses have
* `probes`: health, readiness, metrics; `openapi`: the OpenAPI document of both ports
* `all_streams`: streams of any caller: listed, described, followed, cancelled, shared
* `feed`: server-sent events of what goes on
* `console_files`: the console's pages and scripts, and the sign-in; `form_requests`: the requests that its form sends
"""
