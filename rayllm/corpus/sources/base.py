"""What all kinds of source have: settings, and how they tell what there is to read."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import BeforeValidator, Field

from rayllm.core.config import ConfigModel
from rayllm.corpus.documents import Content, FileRef, Piece
from rayllm.corpus.files.cuts import find_all


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


Paths = Annotated[list[str], BeforeValidator(_as_list, json_schema_input_type=str | list[str]), Field(min_length=1)]


class SourceConfig(ConfigModel):
    """A source of any kind; every kind has a ``kind`` of its own too."""

    content: Content = Field(default="prose", description="Which of `prepare.rules` apply: prose, code, math or chat.")
    license: str = Field(default="", description="Licence of the texts, for the data card.")

    @property
    def terms(self) -> str:
        """What the data card says of the licence; empty where nobody has said anything."""
        return self.license

    def files(self, setting: str) -> list[FileRef]:
        """The user's files behind this source; none where it makes its documents, or takes them from this Python.

        Args:
            setting: Where this source stands in the config, for errors.

        Raises:
            DataError: If there is nothing to read.
        """
        return []

    def pieces(self, setting: str, unit_bytes: int) -> Iterator[Piece]:
        """Cut what there is to read.

        Args:
            setting: Where this source stands in the config, for errors.
            unit_bytes: Input that a piece should have, in bytes.

        Raises:
            DataError: If there is nothing to read.
        """
        raise NotImplementedError


class FilesConfig(SourceConfig):
    """Files that the user names."""

    path: Paths = Field(
        description="Path, URI or glob, or a list of them; `${VAR}` and `${VAR:-default}` are replaced."
    )

    def files(self, setting: str) -> list[FileRef]:
        """See ``SourceConfig.files``."""
        return find_all(self.path, setting)
