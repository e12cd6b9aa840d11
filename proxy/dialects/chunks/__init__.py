"""The chunks of chat completions, as they are read and written. Knows nothing of requests.

Read in this order:

* `reader`: follows the chunks of one stream
* `known`: what chunks say which were the same in earlier streams, and need not be parsed again
* `writer`: chunks that tell of a stream of any API
"""
