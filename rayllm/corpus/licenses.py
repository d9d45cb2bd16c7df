"""Licences of code: what a file or a row says, and whether that is allowed.

In: names (SPDX identifiers or expressions) from a field of a row, a tag in a source file, or the text of a licence
file. Out: None, or the reason why the document is left out.
"""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import Field

from rayllm.core.config import ConfigModel

NOT_ALLOWED, UNKNOWN = "license_not_allowed", "license_unknown"

#: Names under which projects keep their licence, without ending.
_FILE_NAME = re.compile(r"^(un)?licen[sc]es?([-._].*)?$|^copying([-._].*)?$", re.IGNORECASE)
_TAG = re.compile(r"SPDX-License-Identifier:[ \t]*([\w.+ ()-]+)")
_TAG_CHARACTERS = 4096
_NOT_LICENSE_ENDINGS = (".py", ".js", ".ts", ".go", ".c", ".h", ".rs", ".java", ".html", ".json", ".yml", ".yaml")

#: What stands at the head of a licence's text, all parts of it, in lower case.
_HEADINGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("AGPL-3.0", ("gnu affero general public license", "version 3")),
    ("LGPL-3.0", ("gnu lesser general public license", "version 3")),
    ("LGPL-2.1", ("gnu lesser general public license", "version 2.1")),
    ("GPL-3.0", ("gnu general public license", "version 3")),
    ("GPL-2.0", ("gnu general public license", "version 2")),
    ("MPL-2.0", ("mozilla public license", "2.0")),
    ("EPL-2.0", ("eclipse public license", "2.0")),
    ("Apache-2.0", ("apache license", "version 2.0")),
    ("CC0-1.0", ("cc0 1.0",)),
    ("BSL-1.0", ("boost software license", "version 1.0")),
    ("PSF-2.0", ("python software foundation license version 2",)),
)
#: Sentences that only one kind of licence has.
_SENTENCES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("BSD-3-Clause", ("redistribution and use in source and binary forms", "neither the name")),
    ("BSD-2-Clause", ("redistribution and use in source and binary forms",)),
    ("MIT", ("permission is hereby granted, free of charge", "the software is provided")),
    ("ISC", ("permission to use, copy, modify, and/or distribute this software", "copyright notice")),
    ("0BSD", ("permission to use, copy, modify, and/or distribute this software",)),
    ("Unlicense", ("this is free and unencumbered software released into the public domain",)),
    ("Zlib", ("without any express or implied warranty", "altered source versions must be plainly marked")),
)
_HEADING_CHARACTERS = 400
#: What data sets write where they know no licence.
_NO_NAMES = ("", "unknown", "none", "other", "noassertion", "no_license")


class LicenseFilter(ConfigModel):
    """Which licences are wanted."""

    allow: list[str] = Field(
        min_length=1, description="SPDX identifiers or globs of them, such as `MIT` or `BSD-*`; case does not matter."
    )
    unknown: Literal["drop", "keep"] = Field(
        default="drop", description="What becomes of documents whose licence is not known."
    )

    def reason_to_drop(self, names: Sequence[str]) -> str | None:
        """Why a document is left out.

        Args:
            names: The licences that all apply to it, as SPDX identifiers or expressions; none where it is not known.

        Returns:
            The name of the reason, or None if the document may be used.
        """
        known = [name for name in names if name.strip().lower() not in _NO_NAMES]
        if self.unknown == "drop" and len(known) < max(1, len(names)):
            return UNKNOWN
        return None if all(map(self._allows, known)) else NOT_ALLOWED

    def _allows(self, expression: str) -> bool:
        """Whether an expression is allowed: of ``OR`` one side is enough, unless parentheses make it intricate."""
        lowered = expression.strip().lower()
        if "(" in lowered:
            return all(map(self._allows_one, re.split(r"\s+(?:or|and)\s+", re.sub(r"[()]", " ", lowered))))
        sides = re.split(r"\s+or\s+", lowered)
        return any(all(map(self._allows_one, re.split(r"\s+and\s+", side))) for side in sides)

    def _allows_one(self, name: str) -> bool:
        identifier = re.split(r"\s+with\s+", name.strip())[0]
        bare = re.sub(r"(-only|-or-later|\+)$", "", identifier)
        return any(fnmatchcase(form, pattern.lower()) for pattern in self.allow for form in (identifier, bare))


class FieldLicenses(LicenseFilter):
    """Which licences are wanted, by a field of the rows."""

    field: str = Field(
        description="Field that holds the licence, or a list of licences that must all be allowed; dots as in `text`."
    )


def is_license_file(name: str) -> bool:
    """Whether a file of this name holds a project's licence."""
    return bool(_FILE_NAME.match(name)) and not name.lower().endswith(_NOT_LICENSE_ENDINGS)


def tagged_license(text: str) -> str | None:
    """The expression of a source file's ``SPDX-License-Identifier``, near its top; see https://spdx.dev/ids."""
    match = _TAG.search(text[:_TAG_CHARACTERS])
    return match[1].strip(" -") or None if match else None


def recognise_license(text: str) -> str | None:
    """The SPDX identifier of a licence's text, by its heading or by a sentence of its own; None if it is not known."""
    normal = " ".join(text.lower().split())
    return _first(normal[:_HEADING_CHARACTERS], _HEADINGS) or _first(normal, _SENTENCES)


def joined_license(texts: Iterable[str]) -> str | None:
    """What a project offers by its licence files: with several, such as LICENSE-MIT and LICENSE-APACHE, a choice."""
    names = [recognise_license(text) for text in texts]
    known = [name for name in names if name]
    return " OR ".join(sorted(set(known))) or None


def _first(text: str, table: tuple[tuple[str, tuple[str, ...]], ...]) -> str | None:
    """The name whose parts are all there, the one that is met first: licences speak of each other further down."""
    found = [
        (text.index(parts[0]), position) for position, (_, parts) in enumerate(table) if all(p in text for p in parts)
    ]
    return table[min(found)[1]][0] if found else None
