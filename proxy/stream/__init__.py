"""Floor 2: the log, its cursors and their modes. Time and timers are handed in; aiohttp is unknown here."""
