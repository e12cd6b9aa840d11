"""Floor 5: telemetry. What is reported of streams and requests: numbers and names, never text.

Must not know: handlers, callers' keys.

Read in this order:

* `stream_object`: what is said of one stream, as JSON and as headers
* `metrics`: what Prometheus scrapes
* `access_log`: one line for each stream that has ended
* `tracing`: OpenTelemetry spans, if they are enabled
* `live_feed`: server-sent events of streams that begin and end, on the admin port
"""
