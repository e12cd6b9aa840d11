"""Floor 3: where bytes enter and leave. Upstream and downstream never import each other, nor the hub."""
