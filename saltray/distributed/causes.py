"""The cause of an error of Ray's, whose text is a traceback or several of them."""

import re

_EXCEPTION = re.compile(r"^(?:[A-Za-z_][\w.]*: .+|[\w.]*(?:Error|Exception|Interrupt|Exit|Timeout))$", re.MULTILINE)


def cause_in_a_line(text: str) -> str:
    """The first line of the last exception in a text: some have more, as those of CUDA with advice on debugging it."""
    found = _EXCEPTION.findall(text)
    return found[-1] if found else next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
