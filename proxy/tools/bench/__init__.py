"""`streamtee bench`: puts load on one endpoint, or on two in turn, and reports how fast it answers.

Read in this order:

* `call`: one request, and what is measured of it
* `load`: the requests of a measurement: how many at once, how often, for how long
* `results`: percentiles, rates and differences
* `report`: the table for people, and the document for programs; `plot`: the picture
* `command`: the command, its options, and its progress bar
"""
