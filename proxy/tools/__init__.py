"""Floor 8: the command line and what it starts.

Read in this order:

* `cli`: the list of all commands, and the one that serves; `signals`: what signals have a running server do; `systemd`:
  sockets that systemd hands over, and what it is told
* `init`, `check_config`: the commands that write and check a configuration; `config_file`: the option that names one
* `keys`: makes and changes the keys of callers
* `demo`: the demonstration that `make demo` runs
* `tail`, `tail_readers`: `streamtee tail`
* `follow`: to import: the events of a stream, resumed over every cut
* `record`, `replay`: a response into a file, and out of it as an upstream; `recording`: the format of the file
* `bench`: measures endpoints; `check`: tries out any proxy; a folder each. `endpoint`: what both send requests to
* `fake`: an upstream to try against, a folder of its own
* `completion`: completes commands in a shell
* `selfcheck`: refuses to start if another distribution has a package named proxy, or with the slow parser of aiohttp
* `command_error`: how a command that fails ends; `event_loop`: runs what a command does
"""
