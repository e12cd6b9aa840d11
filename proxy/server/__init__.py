"""Floor 4: the running proxy. app.py makes the introductions; everything below it is told what it needs."""
