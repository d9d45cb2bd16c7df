"""Files that are texts themselves: plain text, Markdown, and archives of web pages."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from rayllm.core.config import Count
from rayllm.corpus.documents import Piece
from rayllm.corpus.extract.html import check_installed
from rayllm.corpus.files.cuts import group_files
from rayllm.corpus.sources.base import FilesConfig


class TextSource(FilesConfig):
    """Plain text files, plain or compressed (gz, zst, bz2)."""

    kind: Literal["text"] = Field(default="text", description="Plain text.")
    documents: Literal["file", "line", "separator"] = Field(
        default="file",
        description="What a document is: a file, a line, or what stands between lines equal to `separator`.",
    )
    separator: str = Field(default="<|endoftext|>", min_length=1, description="The line that separates documents.")
    piece_bytes: Count | None = Field(
        default=64 << 10,
        ge=256,
        description="Longer documents (books) are cut at blank lines to this, in bytes; null: prepare.max_row_bytes.",
    )

    def pieces(self, setting: str, unit_bytes: int) -> Iterator[Piece]:
        """Files, small ones in groups."""
        yield from group_files(self.files(setting), unit_bytes)


class MarkdownSource(FilesConfig):
    """Markdown files: HTML comments are dropped, code is kept as it is, and front matter becomes metadata."""

    kind: Literal["markdown"] = Field(default="markdown", description="Markdown.")
    documents: Literal["file", "section"] = Field(
        default="file", description="What a document is: a file, or a section below a heading."
    )
    section_level: int = Field(
        default=2, ge=1, le=6, description="With `documents: section`: headings to cut at, up to this level."
    )
    front_matter: list[str] | None = Field(
        default=None, description="Fields of YAML front matter that are kept as metadata; null: all."
    )

    def pieces(self, setting: str, unit_bytes: int) -> Iterator[Piece]:
        """Files, small ones in groups."""
        yield from group_files(self.files(setting), unit_bytes)


class WarcSource(FilesConfig):
    """Web archives (WARC): the text of the HTML pages in them, or the text records of WET files; plain, gz or zst."""

    kind: Literal["warc"] = Field(default="warc", description="Web archives.")
    main_content: bool = Field(
        default=True, description="Whether menus, headers, footers and the like are left out of the text of a page."
    )
    max_page_bytes: Count = Field(default=2 << 20, ge=1, description="Larger pages go into quarantine, in bytes.")

    def pieces(self, setting: str, unit_bytes: int) -> Iterator[Piece]:
        """Archives, small ones in groups.

        Raises:
            SetupError: If the packages that read them are missing.
        """
        check_installed(setting)
        yield from group_files(self.files(setting), unit_bytes)
