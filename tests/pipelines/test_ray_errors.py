"""Errors of ours cross a process border as data."""

import pytest

from rayllm.core import errors
from rayllm.pipelines.ray_errors import error_from_json, error_to_json


@pytest.mark.parametrize("kind", ["ConfigError", "DataError", "ArtifactDamaged", "SavedForRerun"])
def test_an_error_arrives_with_its_class_and_its_parts(kind):
    sent = getattr(errors, kind)("what", where="here", why="because", fix="do this")
    arrived = error_from_json(error_to_json(sent))
    assert type(arrived) is type(sent)
    assert (arrived.what, arrived.where, arrived.why, arrived.fix) == ("what", "here", "because", "do this")
    assert str(arrived) == str(sent)
