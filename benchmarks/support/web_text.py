"""Web text of any size: real documents, multiplied by edits, with near-copies and exact copies among them.

A few megabytes of real pages are few: multiplied as they are, every tool would see the same page again and again. Here
each round over the pages replaces two in five of their words by words of other pages, so that documents of different
rounds are far from one another, but lengths, lines, punctuation and word frequencies stay those of real pages. A
twelfth of all documents are near-copies (one word in 300 replaced: every tool has to find them), another part exact
copies.
"""

import gzip
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rayllm.corpus.clean import CleanSettings, clean_text

PAGES = ("c4_en.jsonl", "openwebtext.jsonl.gz", "dolma_cc_en_head.jsonl", "18f_blog.jsonl.gz")
FAR_EDIT, NEAR_EDIT = 0.4, 1 / 300
NEAR_SHARE, EXACT_SHARE = 1 / 12, 1 / 40
FILES = 4
ROW_GROUP_ROWS = 1000
_WORD = re.compile(r"([A-Za-z]{3,})")


def real_pages(folder: Path) -> list[str]:
    """The pages, cleaned: so that tools which clean and tools which do not see the same text."""
    texts: list[str] = []
    for name in PAGES:
        path = folder / "text" / name
        data = gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()
        texts += [json.loads(line)["text"] for line in data.split(b"\n") if line]
    cleaned = (clean_text(text, CleanSettings()) for text in texts)
    return [text for text in cleaned if text]


def documents(pages: Sequence[str], size: int, seed: int = 0) -> Iterator[tuple[str, str]]:
    """Ids and texts of documents, about ``size`` bytes in all; the id of a copy begins with that of its original."""
    rng = np.random.default_rng(seed)
    # Words stand in the odd places, what is between them in the even ones.
    pieces = [np.array(_WORD.split(page), object) for page in pages]
    vocabulary = np.concatenate([words[1::2] for words in pieces])
    made = number = 0
    while made < size:
        words = pieces[number % len(pages)]
        if number >= len(pages):
            words = _edit(words, FAR_EDIT, vocabulary, rng)
        text = "".join(words)
        copies = [(f"{number:07d}", text)]
        if rng.random() < NEAR_SHARE:
            copies.append((f"{number:07d}-near", "".join(_edit(words, NEAR_EDIT, vocabulary, rng))))
        if rng.random() < EXACT_SHARE:
            copies.append((f"{number:07d}-same", text))
        yield from copies
        made += sum(len(copy.encode()) for _, copy in copies)
        number += 1


def write_parquet(folder: Path, pages: Sequence[str], size: int, files: int = FILES) -> list[Path]:
    """Write documents to Parquet files of columns ``id`` and ``text``, one after another in order."""
    folder.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([("id", pa.string()), ("text", pa.string())])
    paths = [folder / f"{number:02d}.parquet" for number in range(files)]
    rows = documents(pages, size)
    for number, path in enumerate(paths):
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            made, held = 0, []
            for row in rows:
                held.append(row)
                made += len(row[1].encode())
                last = made >= size // files and number < files - 1
                if len(held) == ROW_GROUP_ROWS or last:
                    _write(writer, held, schema)
                    held = []
                if last:
                    break
            _write(writer, held, schema)
    return paths


def _write(writer: pq.ParquetWriter, rows: list[tuple[str, str]], schema: pa.Schema) -> None:
    if rows:
        ids, texts = zip(*rows, strict=True)
        writer.write_table(pa.table([list(ids), list(texts)], schema=schema))


def _edit(words: np.ndarray, share: float, vocabulary: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Replace a share of the words; what stands between them stays."""
    edited = words.copy()
    places = 1 + 2 * np.flatnonzero(rng.random(len(words) // 2) < share)
    edited[places] = rng.choice(vocabulary, len(places))
    return edited
