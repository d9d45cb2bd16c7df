"""Settings of a run that contradict each other across sections, refused when the config is read."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from small_session import make_config


@pytest.mark.parametrize("settings", [{"lr_scale": 0.5}, {"weight_decay": 0.0}])
def test_rates_of_a_head_that_is_the_embedding_are_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    optimizer = {"groups": {"head": settings}}
    with pytest.raises(ValidationError, match=r"model\.tie_embeddings(.|\n)*set `groups\.embedding`"):
        make_config(tmp_path, optimizer=optimizer)
    config = make_config(tmp_path)
    untied = {"model": config.model.model_dump() | {"tie_embeddings": False}}
    whole = config.model_dump() | untied | {"train": config.train.model_dump() | {"optimizer": optimizer}}
    type(config).model_validate(whole)
    type(config).model_validate(config.model_dump())
