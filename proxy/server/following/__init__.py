"""Requests about streams that exist: to follow them, and to show, cancel, delete and share them.

Read in this order:

* `follow`: the handler that follows a stream; `request`: the view, cursor and times in its query and headers;
  `place`: where in the log it begins
* `follow_many`: the handler that follows several streams on one connection
* `control`: shows, cancels, deletes and shares streams, by id or key
* `objects`: shows, cancels, deletes and resumes responses by the paths and ids of their API
* `shared_routes`: configured routes whose clients follow one upstream event stream
"""
