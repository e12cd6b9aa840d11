"""A fake Qwen: an upstream to try the proxy and clients with. It answers as DashScope does, and fails as it can fail.

Read in this order:

* `qwen`: the server, and the options in a request that choose how it answers
* `text`: what it answers, whatever the API; `refusals`: the ways in which it says no
* `api`: what each API has; `chat`, `native`, `responses`, `messages`: the APIs
* `faults`: how it can misbehave
* `ticker`: an event stream without an end
"""
