"""Our own errors on their way from a task of Ray Data to the driver: as data.

Raised in a task, an error arrives wrapped in Ray's, its class lost, behind screens of Ray's own log. A task that ends
in one of ours returns it as text instead, and the driver raises it again. Bugs keep Ray's way and their traceback.
"""

import json

from rayllm.core import errors
from rayllm.core.errors import RayllmError


def error_to_json(error: RayllmError) -> str:
    """The class and the parts of an error."""
    return json.dumps([type(error).__name__, error.what, error.where, error.why, error.fix])


def error_from_json(text: str) -> RayllmError:
    """The error that ``error_to_json`` wrote."""
    name, what, where, why, fix = json.loads(text)
    kind = getattr(errors, name)
    assert issubclass(kind, RayllmError), name
    return kind(what, where=where, why=why, fix=fix)
