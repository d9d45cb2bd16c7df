from typing import get_args

import pytest

from rayllm.corpus.languages import SUFFIXES, Language, language_of
from rayllm.corpus.licenses import LicenseFilter, is_license_file, joined_license, recognise_license, tagged_license

PERMISSIVE = LicenseFilter(allow=["MIT", "Apache-2.0", "BSD-*"])


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["MIT"], None),
        (["mit", "bsd-3-clause"], None),
        (["MIT", "GPL-3.0"], "license_not_allowed"),
        (["GPL-3.0 OR MIT"], None),
        (["GPL-3.0 AND MIT"], "license_not_allowed"),
        (["(MIT OR GPL-2.0) AND BSD-2-Clause"], "license_not_allowed"),
        (["(MIT OR Apache-2.0) AND BSD-2-Clause"], None),
        (["Apache-2.0 WITH LLVM-exception"], None),
        (["MIT-or-so"], "license_not_allowed"),
        ([], "license_unknown"),
        (["NOASSERTION"], "license_unknown"),
        (["MIT", ""], "license_unknown"),
    ],
)
def test_all_licences_must_be_allowed_and_of_an_or_one_side(names: list[str], reason: str | None) -> None:
    assert PERMISSIVE.reason_to_drop(names) == reason


def test_later_versions_count_as_the_licence_itself() -> None:
    copyleft = LicenseFilter(allow=["GPL-3.0"])
    assert copyleft.reason_to_drop(["GPL-3.0-or-later"]) is None
    assert copyleft.reason_to_drop(["GPL-2.0-only"]) == "license_not_allowed"


def test_unknown_licences_may_be_kept_but_known_ones_still_count() -> None:
    lenient = LicenseFilter(allow=["MIT"], unknown="keep")
    assert lenient.reason_to_drop([]) is None
    assert lenient.reason_to_drop(["", "GPL-3.0"]) == "license_not_allowed"


TEXTS = {
    "Apache-2.0": "Apache License\n    Version 2.0, January 2004\n http://www.apache.org/licenses/",
    "AGPL-3.0": "GNU AFFERO GENERAL PUBLIC LICENSE\n Version 3, 19 November 2007",
    "LGPL-2.1": "GNU LESSER GENERAL PUBLIC LICENSE\n Version 2.1, February 1999",
    "GPL-3.0": "GNU GENERAL PUBLIC LICENSE Version 3, 29 June 2007" + " x" * 500 + "GNU Affero General Public License",
    "BSD-3-Clause": "Redistribution and use in source and binary forms, ... Neither the name of the copyright holder",
    "BSD-2-Clause": "Redistribution and use in source and binary\nforms, with or without modification",
    "MIT": "Copyright (c) me\n\nPermission is hereby granted, free of charge, ... THE SOFTWARE IS PROVIDED",
    "Unlicense": "This is free and unencumbered software released into the public domain.",
}


@pytest.mark.parametrize("name", TEXTS)
def test_licence_texts_are_recognised(name: str) -> None:
    assert recognise_license(TEXTS[name]) == name


def test_an_unknown_text_has_no_name_and_several_are_a_choice() -> None:
    assert recognise_license("All rights reserved.") is None
    assert joined_license([TEXTS["MIT"], TEXTS["Apache-2.0"]]) == "Apache-2.0 OR MIT"
    assert joined_license(["All rights reserved."]) is None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("# SPDX-License-Identifier: MIT\n", "MIT"),
        ("/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */", "GPL-2.0 WITH Linux-syscall-note"),
        ("<!-- SPDX-License-Identifier: Apache-2.0 -->", "Apache-2.0"),
        ("x = 1", None),
    ],
)
def test_tags_are_read_from_comments_of_any_kind(text: str, name: str | None) -> None:
    assert tagged_license(text) == name


def test_licence_files_have_usual_names() -> None:
    assert all(map(is_license_file, ["LICENSE", "license.md", "LICENCE.txt", "LICENSE-MIT", "COPYING", "UNLICENSE"]))
    assert not any(map(is_license_file, ["license.py", "licenses_test.go", "copyright", "README.md"]))


def test_every_language_has_endings_of_its_own() -> None:
    assert set(SUFFIXES) == set(get_args(Language))
    endings = [suffix for suffixes in SUFFIXES.values() for suffix in suffixes]
    assert len(endings) == len(set(endings))
    assert (language_of("a/b.test.rs"), language_of("x/Dockerfile"), language_of("README")) == (
        "rust",
        "dockerfile",
        None,
    )
