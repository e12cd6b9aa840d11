"""What belongs to the configuration, whose keys and rules are in `proxy/server/config.py`.

* `settings`: the tables of the data port: routes, streams, generations, clients, limits
* `places`: the line of the file, or the variable of the environment, that a key was given in
* `mistakes`: what is wrong with a configuration, in words: the key, its place, and the nearest right name
* `credentials`: secrets that a service manager hands over as files
"""
