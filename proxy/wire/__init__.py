"""Floor 1: the words of the wire. Pure functions and small parsers; no asyncio, no clock, no logging."""
