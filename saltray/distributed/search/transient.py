"""What Ray Tune is given, but must not keep."""

from typing import Any


class Transient:
    """Pickles to nothing: Ray Tune pickles all that it is given for a restore that saltray has no use for."""

    def __reduce__(self) -> Any:
        return Transient, ()
