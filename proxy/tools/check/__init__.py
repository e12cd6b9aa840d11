"""`streamtee check`: checks how a proxy or gateway, of any make, treats streams, and says what each result means.

It is the client, and if told so the upstream as well: then it knows what was sent, when, and how it ended.

Read in this order:

* `findings`: what is found: verdicts, and a table of what each check asks, what a failure means, and what to do
* `own_upstream`: the upstream, a fake Qwen that notes when it sends what
* `client`: one request and what came of it; `looks`: whether that looks complete, failed, or neither
* `heartbeats`: which of them the parsers of SDKs fail at
* `probes`: what the checks with the upstream have in common
* `fidelity`, `endings`, `delays`, `disconnects`, `silence`, `resume`: the checks with the upstream
* `run`: runs those; `outside`: what a client can see without it
* `command`: the command, and its report
"""
