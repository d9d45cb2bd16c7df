"""The small family of errors that a user can meet: what happened, where, why, and what to do.

Every class carries the exit code of the command that it ends. Bugs of our own are not in the family: they keep their
traceback.
"""


class RayllmError(Exception):
    """An error with a message made for its reader.

    Args:
        what: What went wrong, in one sentence.
        where: File and line, URI, rank or setting.
        why: The cause, when it is known and not obvious.
        fix: What the reader can do, as a command or a setting.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", why: str = "", fix: str = "") -> None:
        self.what, self.where, self.why, self.fix = what, where, why, fix
        lines = [what]
        lines += [f"  where: {where}"] if where else []
        lines += [f"  why:   {why}"] if why else []
        lines += [f"  fix:   {fix}"] if fix else []
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the parts when the error crosses a process border (Ray pickles what a task raises)."""
        return (_rebuild, (type(self), self.what, self.where, self.why, self.fix))


def _rebuild(cls: type[RayllmError], what: str, where: str, why: str, fix: str) -> RayllmError:
    return cls(what, where=where, why=why, fix=fix)


class ConfigError(RayllmError):
    """The configuration or the command line is wrong."""

    exit_code = 2


class SetupError(RayllmError):
    """The machine, the cluster or the storage lacks something that the run needs."""

    exit_code = 3


class DataError(RayllmError):
    """The input data cannot be used as it is."""


class ArtifactDamaged(RayllmError):
    """A file of an artifact or checkpoint is missing, short, or has other bytes than its manifest says."""


class RunFailed(RayllmError):
    """A run ended before its work was done."""


class ClusterLost(RunFailed):
    """The Ray cluster that a run was on is gone: it cannot be asked for anything any more, not even to stop."""


class SavedForRerun(RayllmError):
    """The run was asked to stop, saved a checkpoint, and goes on when started again."""

    exit_code = 75
