"""A fake Qwen: an upstream to try the proxy and clients with. It answers and fails as DashScope does.

Read in this order:

* `qwen`: the server: its paths, and the steps of the answer to each request
* `steps`: the steps that an answer consists of; `connection`: an HTTP connection, which performs them
* `text`: the text of answers, whatever the API; `refusals`: the errors with which requests are refused
* `api`: what each API defines; `chat`, `native`, `responses`, `messages`: the APIs
* `faults`: the ways in which it can misbehave; `chosen_faults`: reads which of them a request chooses
* `realtime`: its WebSockets, and their faults
* `ticker`: an event stream without an end
* `command`: the commands `streamtee fake` and `streamtee faults`
"""
