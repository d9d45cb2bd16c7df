"""Named points at which a test may break a run on purpose; off unless ``RAYLLM_ALLOW_FAULTS=1``.

``RAYLLM_FAULT="step:7@1=kill,save.staged=nan"`` reads: at step 7 of attempt 1 kill this process with signal 9; at every
pass of ``save.staged`` answer ``nan``. Number and attempt may be left out. Points are named by their callers.
"""

import functools
import os
import re
import signal
import time

SLOW_S = 0.05
_SPEC = re.compile(r"^(?P<point>[\w.]+)(?::(?P<number>\d+))?(?:@(?P<attempt>\d+))?=(?P<action>\w+)$")


@functools.cache
def _specs() -> dict[str, list[tuple[int | None, int | None, str]]]:
    if os.environ.get("RAYLLM_ALLOW_FAULTS") != "1":
        return {}
    found: dict[str, list[tuple[int | None, int | None, str]]] = {}
    for text in filter(None, os.environ.get("RAYLLM_FAULT", "").split(",")):
        match = _SPEC.match(text.strip())
        if match is None:
            raise ValueError(f"RAYLLM_FAULT: `{text}` is not of the form point[:number][@attempt]=action")
        number, attempt = match["number"], match["attempt"]
        entry = (int(number) if number else None, int(attempt) if attempt else None, match["action"])
        found.setdefault(match["point"], []).append(entry)
    return found


def fault(point: str, number: int = 0, attempt: int = 0) -> str:
    """Break here if a test asked for it.

    Args:
        point: Name of the place.
        number: Which pass, such as the step.
        attempt: Which start of the run.

    Returns:
        The action asked for, or an empty string. ``kill`` does not return; ``full_disk`` raises ``OSError``,
        ``out_of_memory`` raises ``MemoryError``; ``slow`` waits, ``hang`` for ever.
    """
    for wanted_number, wanted_attempt, action in _specs().get(point, ()):
        if wanted_number in (None, number) and wanted_attempt in (None, attempt):
            if action == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if action == "full_disk":
                raise OSError(28, "No space left on device")
            if action == "out_of_memory":
                raise MemoryError("no memory for 1 GB more")
            if action == "slow":
                time.sleep(SLOW_S)
            while action == "hang":
                time.sleep(SLOW_S)
            return action
    return ""
