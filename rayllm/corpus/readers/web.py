"""Web archives to documents: the text of each HTML page of a WARC file, or the text records of a WET file.

Format: ISO 28500:2017 (WARC 1.1), https://iipc.github.io/warc-specifications/.
"""

import io
from collections.abc import Iterator
from typing import Any, cast

from rayllm.corpus.documents import BadRow, Document, FileRef, Row, Unit, UnusableRow, Unwanted
from rayllm.corpus.extract.html import check_installed, html_text, page_text
from rayllm.corpus.files.lines import DamagedFile, read_chunks
from rayllm.corpus.files.opening import is_damage
from rayllm.corpus.sources.texts import WarcSource

_HTML_TYPES = ("text/html", "application/xhtml+xml")
_OK = 200


class ChunkStream(io.RawIOBase):
    """Chunks as a stream that fastwarc reads; what damages them ends the stream and is kept."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        super().__init__()
        self._chunks, self._held, self._position = chunks, b"", 0
        self.damage: DamagedFile | None = None

    def readable(self) -> bool:
        """Always."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes; none at the end."""
        while not self._held:
            try:
                self._held = next(self._chunks)
            except StopIteration:
                return b""
            except DamagedFile as error:
                self.damage = error
                return b""
        data = self._held if size < 0 else self._held[:size]
        self._held = self._held[len(data) :]
        self._position += len(data)
        return data

    def tell(self) -> int:
        """Bytes read so far."""
        return self._position


def read_warc(unit: Unit, source: WarcSource, max_row_bytes: int, seed: int) -> Iterator[Row]:
    """Read archives; rows are numbered by the records that can hold a document."""
    check_installed(source.kind)
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    wanted = WarcRecordType.response | WarcRecordType.conversion
    for file in unit.files:
        number = 0
        stream = ChunkStream(read_chunks(file))
        try:
            for record in ArchiveIterator(cast(Any, stream), record_types=wanted, parse_http=True, stream_detect=False):
                number += 1
                try:
                    yield _record_document(record, source, file, max_row_bytes)
                except UnusableRow as error:
                    yield BadRow(file.label, number, error.kind, error.detail)
        except OSError as error:
            if not is_damage(error):
                raise
            stream.damage = stream.damage or DamagedFile(str(error))
        if stream.damage:
            yield BadRow(file.label, None, stream.damage.kind, f"after record {number}: {stream.damage}")


def _record_document(record: Any, source: WarcSource, file: FileRef, max_row_bytes: int) -> Document | Unwanted:
    url = (record.headers.get("WARC-Target-URI") or "").strip("<>")
    metadata = {"url": url, "date": record.headers.get("WARC-Date") or ""}
    unread = Document("", file.label, metadata=metadata)
    if record.http_headers is None:
        return Document(page_text(_payload(record, max_row_bytes), "utf-8").strip(), file.label, metadata=metadata)
    if record.http_headers.status_code != _OK:
        return Unwanted(unread, "not_a_page")
    if (record.http_content_type or "").lower() not in _HTML_TYPES:
        return Unwanted(unread, "not_html")
    page = _payload(record, min(source.max_page_bytes, max_row_bytes))
    text = html_text(page, record.http_charset or "", main_content=source.main_content)
    return Document(text, file.label, metadata=metadata) if text else Unwanted(unread, "no_text")


def _payload(record: Any, max_bytes: int) -> bytes:
    """What a record holds, decoded as its HTTP headers say.

    Raises:
        UnusableRow: If it is too long.
    """
    parts: list[bytes] = []
    left = max_bytes + 1
    while left > 0 and (part := record.reader.read(left)):
        parts.append(part)
        left -= len(part)
    if left <= 0:
        raise UnusableRow("page_too_long", f"more than {max_bytes:,} bytes")
    return b"".join(parts)
