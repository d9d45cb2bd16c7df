import pytest
from pydantic import ValidationError

from rayllm.model.config import ModelConfig
from rayllm.model.transformer import Transformer
from rayllm.optim.config import AdamWConfig, MuonConfig
from rayllm.optim.groups import group_parameters, width_factor


def model(**changes: object) -> Transformer:
    sizes = {"dim": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "ffn_dim": 24, "vocab_size": 32}
    return Transformer(ModelConfig.model_validate(sizes | changes))


def test_groups_with_equal_settings_are_one() -> None:
    groups = group_parameters(model(tie_embeddings=False), AdamWConfig(), 16)
    assert [(group.names, group.weight_decay) for group in groups] == [
        (("matrices", "head"), 0.1),
        (("embedding", "vectors"), 0.0),
    ]


def test_muon_has_the_matrices_alone_and_no_parameter_is_lost_or_twice() -> None:
    built = model(tie_embeddings=False)
    groups = group_parameters(built, MuonConfig(), 16)
    assert [(group.names, group.orthogonal) for group in groups] == [
        (("matrices",), True),
        (("head",), False),
        (("embedding", "vectors"), False),
    ]
    names = [name for group in groups for name, _ in group.parameters]
    assert sorted(names) == sorted(name for name, _ in built.named_parameters())
    assert all(".layers." in name for name, _ in groups[0].parameters)


def test_a_tied_matrix_belongs_to_the_embedding() -> None:
    groups = group_parameters(model(tie_embeddings=True), MuonConfig(), 16)
    names = {name: group.names for group in groups for name, _ in group.parameters}
    assert names["model.embed_tokens.weight"] == ("embedding", "vectors")
    assert not any("head" in group.names for group in groups)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (AdamWConfig(), (1.0, 1.0, 1.0, 1.0)),
        (AdamWConfig(width_scaling="mup", base_width=256), (0.25, 0.25, 1.0, 1.0)),
        (AdamWConfig(width_scaling="sqrt", base_width=256), (0.5, 0.5, 0.5, 1.0)),
        (MuonConfig(width_scaling="mup", base_width=256), (0.5, 0.25, 1.0, 1.0)),
        (MuonConfig(width_scaling="mup", base_width=256, update_scale="spectral"), (1.0, 0.25, 1.0, 1.0)),
        (MuonConfig(width_scaling="sqrt", base_width=256, update_scale="spectral"), (1.0, 0.5, 0.5, 1.0)),
        (MuonConfig(width_scaling="none", base_width=256), (1.0, 1.0, 1.0, 1.0)),
    ],
)
def test_four_times_the_base_width_scales_learning_rates(
    config: AdamWConfig | MuonConfig, expected: tuple[float, ...]
) -> None:
    names = ("matrices", "head", "embedding", "vectors")
    assert tuple(width_factor(config, name, 1024) for name in names) == expected


@pytest.mark.parametrize("config", [AdamWConfig, MuonConfig])
def test_a_base_width_that_nothing_scales_by_is_refused(config: type[AdamWConfig] | type[MuonConfig]) -> None:
    with pytest.raises(ValidationError, match=r"base_width 512 is not used(.|\n)*set width_scaling to mup or sqrt"):
        config(base_width=512)
    assert config.model_validate(config().model_dump()) == config()


def test_at_the_base_width_nothing_is_scaled() -> None:
    for config in (AdamWConfig(width_scaling="mup"), MuonConfig(width_scaling="sqrt")):
        assert {width_factor(config, name, config.base_width) for name in ("matrices", "head", "embedding")} == {1.0}
