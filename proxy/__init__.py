"""streamtee: tee(1) for LLM streams.

Floors: wire, stream, edge, server, tools; each imports only what stands below it.
"""

__version__ = "0.1.0"
