"""Files of text to documents: plain text, source files, Markdown."""

from collections.abc import Iterator

from rayllm.corpus.documents import BadRow, Document, FileRef, Row, Unit, UnusableRow, Unwanted
from rayllm.corpus.extract.markdown import drop_comments, split_front_matter, split_sections
from rayllm.corpus.files.lines import DamagedFile, read_chunks, read_lines
from rayllm.corpus.languages import language_of
from rayllm.corpus.licenses import joined_license, tagged_license
from rayllm.corpus.readers.rows import decode
from rayllm.corpus.sources.builtin import PythonStdlibSource
from rayllm.corpus.sources.code import CodeSource
from rayllm.corpus.sources.texts import MarkdownSource, TextSource

_BOM = b"\xef\xbb\xbf"
#: Licence files are short; more of one is not looked at.
_LICENSE_BYTES = 64 << 10


def read_text(unit: Unit, source: TextSource, max_row_bytes: int, seed: int) -> Iterator[Row]:
    """Read plain text; rows are numbered by document."""
    for file in unit.files:
        number = 0
        try:
            lines = read_lines(file, max_bytes=max_row_bytes)
            for data in cut_text(lines, source, max_row_bytes):
                number += 1
                try:
                    if data is None:
                        raise UnusableRow("line_too_long", f"more than {max_row_bytes:,} bytes")
                    yield Document(_plain_text(data.removeprefix(_BOM) if number == 1 else data), file.label)
                except UnusableRow as error:
                    yield BadRow(file.label, number, error.kind, error.detail)
        except DamagedFile as error:
            yield BadRow(file.label, None, error.kind, f"after document {number}: {error}")


def cut_text(lines: Iterator[bytes | None], source: TextSource, max_bytes: int) -> Iterator[bytes | None]:
    """Put lines together to documents, and cut long ones at the last blank line before ``piece_bytes``.

    A line that was too long to be held comes through as None.

    Args:
        lines: The lines of a file.
        source: What a document is, and how long it may be.
        max_bytes: How long a document may be where the source has no limit.
    """
    if source.documents == "line":
        yield from (line for line in lines if line is None or line.strip())
        return
    separator = source.separator.encode() if source.documents == "separator" else None
    limit = source.piece_bytes or max_bytes
    held: list[bytes] = []
    size = blank = 0
    for line in lines:
        if line is None or (separator is not None and line.strip() == separator):
            if held:
                yield b"\n".join(held)
            if line is None:
                yield None
            held, size, blank = [], 0, 0
            continue
        held.append(line)
        size += len(line) + 1
        blank = blank if line.strip() else len(held)
        if size >= limit:
            cut = blank or len(held)
            yield b"\n".join(held[:cut])
            held = held[cut:]
            size, blank = sum(len(rest) + 1 for rest in held), 0
    if held:
        yield b"\n".join(held)


def read_markdown(unit: Unit, source: MarkdownSource, max_row_bytes: int, seed: int) -> Iterator[Row]:
    """Read Markdown files, whole or by section; rows are numbered by section."""
    for text in _whole_texts(unit, max_row_bytes):
        if isinstance(text, BadRow):
            yield text
            continue
        file, markdown = text
        fields, body = split_front_matter(markdown.replace("\r\n", "\n"))
        kept = fields if source.front_matter is None else {k: fields[k] for k in source.front_matter if k in fields}
        body = drop_comments(body)
        if source.documents == "file":
            yield Document(body, file.label, metadata={**kept, "path": file.label})
            continue
        for title, section in split_sections(body, source.section_level):
            if section.strip():
                yield Document(section, file.label, metadata={**kept, "path": file.label, "section": title})


def read_code(unit: Unit, source: CodeSource, max_row_bytes: int, seed: int) -> Iterator[Row]:
    """Read each source file as one document: its name, language and, where licences are asked for, licence with it."""
    licenses: dict[tuple[str, ...], str | None] = {(): None}
    for text in _whole_texts(unit, max_row_bytes):
        if isinstance(text, BadRow):
            yield text
            continue
        file, code = text
        language = language_of(file.label)
        metadata = {"path": file.label} | ({"language": language} if language else {})
        if source.licenses is None:
            yield Document(code, file.label, metadata=metadata)
            continue
        if file.license_files not in licenses:
            licenses[file.license_files] = joined_license(map(_license_text, file.license_files))
        name = tagged_license(code) or licenses[file.license_files]
        document = Document(code, file.label, metadata=metadata | ({"license": name} if name else {}))
        reason = source.licenses.reason_to_drop([name] if name else [])
        yield Unwanted(document, reason) if reason else document


def _license_text(uri: str) -> str:
    chunks = read_chunks(FileRef(uri=uri, label=uri))
    return next(chunks, b"")[:_LICENSE_BYTES].decode(errors="replace")


def read_stdlib(unit: Unit, source: PythonStdlibSource, max_row_bytes: int, seed: int) -> Iterator[Row]:
    """Read each file as one document, its name as metadata."""
    for text in _whole_texts(unit, max_row_bytes):
        yield text if isinstance(text, BadRow) else Document(text[1], text[0].label, metadata={"path": text[0].label})


def _whole_texts(unit: Unit, max_row_bytes: int) -> Iterator[tuple[FileRef, str] | BadRow]:
    """Each file with its text, or what is wrong with it."""
    for file in unit.files:
        try:
            yield file, _plain_text(_whole_file(file, max_row_bytes).removeprefix(_BOM))
        except UnusableRow as error:
            yield BadRow(file.label, None, error.kind, error.detail)
        except DamagedFile as error:
            yield BadRow(file.label, None, error.kind, str(error))


def _plain_text(data: bytes) -> str:
    if b"\0" in data:
        raise UnusableRow("binary", "it has NUL bytes")
    return decode(data)


def _whole_file(file: FileRef, max_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    for chunk in read_chunks(file):
        chunks.append(chunk)
        size += len(chunk)
        if size > max_bytes:
            raise UnusableRow("file_too_long", f"more than {max_bytes:,} bytes")
    return b"".join(chunks)
