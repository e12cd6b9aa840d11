"""Floor 5: telemetry. What is reported of streams, requests and the process: numbers and names, never text.

Must not know: handlers, callers' keys. Most modules are observers: the hub calls them when a stream begins and ends.

Read in this order:

* `stream_object`: the description of one stream, as JSON and as headers
* `metrics`: counters and histograms; `metrics_page`: the page that Prometheus scrapes;
  `caller_metrics`: what callers with keys of ours have used
* `prices`: what tokens cost, by the configured prices; `settings`: the table [prices] of the configuration
* `log_records`: records of the log, as a line or as fields; `log_lines`: how they are written; `access_log`: one for
  each stream that has ended; `request_log`: one for each request, if that is wanted
* `tracing`: OpenTelemetry spans, if they are enabled
* `allocator`: returns memory that was freed to the operating system when the process is idle
* `live_feed`: server-sent events of streams that begin and end; `overview`: what the console shows
"""
