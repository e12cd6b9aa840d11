"""Secrets that a service manager hands over as files in a folder of the service's own.

systemd names it in `$CREDENTIALS_DIRECTORY` (systemd.exec(5), "Credentials"). A file with the name of a key, such as
`upstream.key`, is its value where neither the configuration file nor the environment gives one. Other files there are
not ours to judge. Other managers name a path: that goes into `key_file` and its like.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from proxy.settings import FILE, is_table, secrets_of, table_below

VARIABLE = "CREDENTIALS_DIRECTORY"


def with_credentials(
    table: type[BaseModel], given: dict[str, Any], environment: Mapping[str, str] = os.environ
) -> dict[str, Any]:
    """Return what is given of a configuration, with the files of credentials for those secrets that are not.

    Raises: ValueError.
    """
    folder = environment.get(VARIABLE)
    if folder:
        try:
            paths = sorted(Path(folder).iterdir())
        except OSError as error:
            raise ValueError(f"{VARIABLE}: {folder} can't be read: {error.strerror}") from None
        for path in paths:
            key = path.name.split(".")
            if _is_secret(table, key):
                given = _with(given, key, str(path))
    return given


def credential(key: Sequence[str], environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the path of the credential with the name of a key; None, if there is none."""
    folder = environment.get(VARIABLE)
    path = Path(folder, ".".join(key)) if folder else None
    return str(path) if path is not None and path.is_file() else None


def _is_secret(table: Any, key: list[str]) -> bool:
    """Return whether a key, from a table on, is that of a secret that can be given as a file."""
    *outer, last = key
    for name in outer:
        table = table_below(table, name)
    return is_table(table) and last in secrets_of(table)


def _with(given: dict[str, Any], key: list[str], path: str) -> dict[str, Any]:
    """Return what is given of a table, with the file of a secret, if the secret is not given in another way."""
    name, *inner = key
    if inner:
        below = given.get(name, {})
        return {**given, name: _with(below, inner, path)} if isinstance(below, dict) else given
    return given if given.get(name) or given.get(name + FILE) else {**given, name + FILE: path}
