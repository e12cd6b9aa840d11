"""Who sends requests: what room `access` knows of callers, as it is configured and while the proxy runs.

* `identification`: makes what identifies callers and operators; keeps callers with names, their limits and their usage
  up to date
* `usage`: tells a caller what it has used
"""
