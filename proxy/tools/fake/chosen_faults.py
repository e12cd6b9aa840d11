"""Reads which faults a request chooses, and applies them: `NAME; OPTION=VALUE`, in the syntax that `qwen` describes."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from proxy.tools.fake.faults import FAULTS, OF_STEPS, BadFault, Fault
from proxy.tools.fake.steps import Case


def fault_options(fault: Fault) -> dict[str, str]:
    """Return a fault's options and their defaults, as shown to people."""
    shown = {o.name: "3" if o.default is o.empty else f"{o.default}" for o in _parameters(fault).values()}
    return shown | {"times": "always"}


def _parameters(fault: Fault) -> dict[str, inspect.Parameter]:
    return {name: p for name, p in inspect.signature(fault).parameters.items() if p.kind is p.KEYWORD_ONLY}


class ChosenFault(NamedTuple):
    """A fault as a request chooses it: the words, the name and the options in them."""

    words: str
    name: str
    options: dict[str, str]

    def apply(self, subject: Any, case: Case) -> Any:
        """Return `subject`, the steps or the request that the fault is for, changed by it. Raises BadFault."""
        context = (case,) if self.name in OF_STEPS else ()
        return FAULTS[self.name](subject, *context, **self._read_options(case))

    def _read_options(self, case: Case) -> dict[str, Any]:
        wanted = _parameters(FAULTS[self.name])
        given = {key: value for key, value in self.options.items() if key != "times"}
        if "after" in wanted:
            given.setdefault("after", "3" if case.stream else "0")
        try:
            return {key: wanted[key].annotation(value) for key, value in given.items()}
        except (KeyError, ValueError) as error:
            known = ", ".join(f"{key} ({value})" for key, value in fault_options(FAULTS[self.name]).items())
            raise BadFault(f"{self.words!r} can't be read; {self.name} has the options {known}") from error


def chosen_faults(text: str, between: str, within: str) -> Iterator[ChosenFault]:
    """Yield the faults in a text.

    `between` separates the faults, `within` a fault's name and its options. Raises BadFault.
    """
    for words in filter(None, (part.strip() for part in text.split(between))):
        name, *pairs = (word.strip() for word in words.split(within))
        if name not in FAULTS:
            raise BadFault(f"there is no fault {name!r}; there are {', '.join(FAULTS)}")
        options = dict(pair.partition("=")[::2] for pair in pairs if pair)
        if not options.get("times", "1").isdigit():
            raise BadFault(f"{words!r}: times is a number of requests")
        yield ChosenFault(words, name, options)


def applied(subject: Any, table: Mapping[str, Fault], named: Iterable[ChosenFault], case: Case) -> Any:
    """Return `subject` changed by the chosen faults that are in the table, one after another."""
    for one in named:
        subject = one.apply(subject, case) if one.name in table else subject
    return subject
