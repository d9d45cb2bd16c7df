"""What a measurement costs beside time: memory and CPU of this process and of all that it has started."""

import contextlib
import threading

import psutil

#: Between two looks. To add up the memory of a dozen processes takes a tenth of a second.
SAMPLE_S = 1.0


class Usage:
    """Watches this process and all that it has started: their memory together, in bytes (PSS), and their CPU time.

    Args:
        memory: Whether to look at memory, which takes a twentieth of the CPUs; else ``peak_bytes`` stays 0.
    """

    def __init__(self, *, memory: bool) -> None:
        self.peak_bytes = 0
        self._memory = memory
        self._seconds: dict[int, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Usage":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def cpu_s(self) -> float:
        """Seconds of CPU so far; of processes that have ended, what they had when they were last seen."""
        for process in _processes():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                self._seconds[process.pid] = times.user + times.system
        return sum(self._seconds.values())

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            if self._memory:
                self.peak_bytes = max(self.peak_bytes, sum(map(_pss, _processes())))
            self.cpu_s()


def _processes() -> list[psutil.Process]:
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:  # it has ended
        return 0
