"""A sampler that survives interruptions: what it was asked and told is kept, and done again at the next start.

In: a sampler in its first state, the file of its record. Out: the same sampler, brought to where it was. It proposes
again all that it proposed before, in order, so that the executor finds the finished trials in the ledger and goes on
with the others under their old numbers; then it goes on as if nothing had happened. The record holds the results that
were told, so that nothing else need be whole: a trial that the ledger has lost runs again.
"""

from collections import deque

from pydantic import BaseModel, ConfigDict, ValidationError

from rayllm.core import storage
from rayllm.core.errors import ArtifactDamaged
from rayllm.tune.results import TrialResult
from rayllm.tune.samplers.sampler import Sampler
from rayllm.tune.space import Settings


class Event(BaseModel):
    """One line of the record: a proposal, a result, or, with neither, that nothing was proposed.

    Attributes:
        ask: What was proposed.
        tell: What was told, without its curve, from which no sampler learns.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ask: Settings | None = None
    tell: TrialResult | None = None


#: A search that finds nothing has changed what it will propose next, so it is in the record too.
_FRUITLESS = Event()


class Recorded:
    """Passes asks and tells on, and keeps them.

    Args:
        sampler: In its first state.
        uri: The record, a JSONL file; read and done again if it exists.

    Raises:
        ArtifactDamaged: If the record cannot be read, or the sampler now proposes something else.
    """

    def __init__(self, sampler: Sampler, uri: str) -> None:
        self._sampler, self._uri = sampler, uri
        self._events: list[Event] = []
        self._again: deque[Settings] = deque()
        text = storage.read_text(uri) if storage.exists(uri) else ""
        for number, line in enumerate(text.splitlines(), 1):
            self._do_again(line, f"{uri}:{number}")

    @property
    def done(self) -> bool:
        """Whether the sampler is, and all of the record was proposed again."""
        return not self._again and self._sampler.done

    def ask(self) -> Settings | None:
        """What was proposed before this start, then what the sampler proposes.

        After nothing was proposed, the sampler is not asked again before it is told something.
        """
        if self._again:
            return self._again.popleft()
        if self._events[-1:] == [_FRUITLESS]:
            return None
        settings = self._sampler.ask()
        self._add(Event(ask=settings))
        return settings

    def tell(self, result: TrialResult) -> None:
        """Pass a result on that the sampler does not know."""
        event = Event(tell=result.model_copy(update={"curve": []}))
        if event not in self._events:
            self._sampler.tell(result)
            self._add(event)

    def _add(self, event: Event) -> None:
        self._events.append(event)
        lines = [f"{one.model_dump_json(exclude_none=True)}\n" for one in self._events]
        storage.write_text(self._uri, "".join(lines))

    def _do_again(self, line: str, where: str) -> None:
        try:
            event = Event.model_validate_json(line)
        except ValidationError as error:
            why = str(error).splitlines()[0]
            raise ArtifactDamaged("the record of the sampler cannot be read", where=where, why=why, fix=_FIX) from error
        self._events.append(event)
        if event.tell is not None:
            self._sampler.tell(event.tell)
            return
        settings = self._sampler.ask()
        if settings != event.ask:
            why = f"it proposed {event.ask}, and would now propose {settings}"
            raise ArtifactDamaged("the sampler is not what it was", where=where, why=why, fix=_FIX)
        if settings is not None:
            self._again.append(settings)


_FIX = "remove the file: finished trials are kept, and the search begins anew beside them"
