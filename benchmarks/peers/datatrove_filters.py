"""What datatrove's filters say of texts: a JSON list of texts in, for each filter the reasons (null: kept) out."""

import json
import sys
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


def reason(result: bool | tuple[bool, str]) -> str | None:
    return None if result is True else result[1] if isinstance(result, tuple) else "dropped"


texts = json.loads(Path(sys.argv[1]).read_text())
found = {name: [reason(rule.filter(Document(text=text, id=""))) for text in texts] for name, rule in FILTERS.items()}
Path(sys.argv[2]).write_text(json.dumps(found))
