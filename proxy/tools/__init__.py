"""Floor 7: the command line and what it starts.

Read in this order:

* `cli`: the commands; `signals`: what signals have a running server do; `systemd`: sockets that systemd hands over, and
  what it is told
* `keys`: makes and changes the keys of callers
* `demo`: the demonstration that `make demo` runs
* `tail`, `tail_readers`: `streamtee tail`
* `record`, `replay`: a response into a file, and out of it as an upstream; `recording`: the format of the file
* `fake`: an upstream to try against, a folder of its own
* `log_lines`: how log lines are written; `selfcheck`: refuses to start if another distribution has a package named
  proxy, or with the slow parser of aiohttp
"""
