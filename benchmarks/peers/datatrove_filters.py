"""What datatrove's filters say of texts: a JSON list of texts in, for each filter the reasons (null: kept) out.

Usage: datatrove_filters.py TEXTS FOUND [SECONDS]; SECONDS gets what each filter took, and all but C4's in sequence,
each on what those before it kept (C4's changes the text).
"""

import json
import sys
import time
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.filters import FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.filters.c4_filters import C4QualityFilter

FILTERS = {
    "gopher_quality": GopherQualityFilter(),
    "gopher_repetition": GopherRepetitionFilter(),
    "fineweb": FineWebQualityFilter(char_duplicates_ratio=0.1),  # the paper's threshold
    "c4": C4QualityFilter(),
}
SEQUENCE = ("gopher_quality", "fineweb", "gopher_repetition")
WARM_UP = 20


def reason(result: bool | tuple[bool, str]) -> str | None:
    return None if result is True else result[1] if isinstance(result, tuple) else "dropped"


def judge(name: str, text: str) -> str | None:
    return reason(FILTERS[name].filter(Document(text=text, id="")))


def judge_in_sequence(text: str) -> str | None:
    return next((found for name in SEQUENCE if (found := judge(name, text))), None)


def main() -> None:
    texts = json.loads(Path(sys.argv[1]).read_text())
    found, seconds = {}, {}
    for name in FILTERS:
        [judge(name, text) for text in texts[:WARM_UP]]
        start = time.perf_counter()
        found[name] = [judge(name, text) for text in texts]
        seconds[name] = time.perf_counter() - start
    if len(sys.argv) > 3:
        start = time.perf_counter()
        found["sequence"] = [judge_in_sequence(text) for text in texts]
        seconds["sequence"] = time.perf_counter() - start
        Path(sys.argv[3]).write_text(json.dumps(seconds))
    Path(sys.argv[2]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
