import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rayllm.inference.config import SamplingConfig
from rayllm.inference.sampling import distribution, keep_top_k, keep_top_p, rule_out_padding, sample

LOGITS = torch.log(torch.tensor([[0.1, 0.4, 0.05, 0.25, 0.2], [0.2, 0.2, 0.2, 0.2, 0.2]]))


def plain(**settings: float) -> SamplingConfig:
    return SamplingConfig.model_validate({"temperature": 1.0, "top_k": 0, "top_p": 1.0} | settings)


def test_without_limits_the_distribution_is_the_softmax() -> None:
    torch.testing.assert_close(distribution(LOGITS, plain()), LOGITS.exp())


def test_temperature_divides_the_logits() -> None:
    torch.testing.assert_close(distribution(LOGITS, plain(temperature=0.5)), (LOGITS * 2).softmax(-1))


def test_top_k_keeps_the_likeliest_and_exactly_k_even_among_equals() -> None:
    kept = distribution(LOGITS, plain(top_k=2))
    torch.testing.assert_close(kept[0], torch.tensor([0.0, 0.4 / 0.65, 0.0, 0.25 / 0.65, 0.0]))
    assert int((kept[1] > 0).sum()) == 2


@pytest.mark.parametrize(
    ("p", "expected"), [(0.01, [1]), (0.39, [1]), (0.5, [1, 3]), (0.8, [1, 3, 4]), (0.9, [0, 1, 3, 4])]
)
def test_top_p_keeps_the_fewest_tokens_that_reach_p(p: float, expected: list[int]) -> None:
    assert torch.isfinite(keep_top_p(LOGITS[:1], p))[0].nonzero().flatten().tolist() == expected


@given(st.lists(st.floats(-20, 20), min_size=2, max_size=30), st.floats(0.01, 0.99), st.integers(1, 30))
def test_limits_only_remove_tokens_and_never_the_likeliest(values: list[float], p: float, k: int) -> None:
    logits = torch.tensor([values])
    for kept in (keep_top_p(logits, p), keep_top_k(logits, min(k, len(values)))):
        stays = torch.isfinite(kept)
        assert torch.equal(kept[stays], logits[stays])
        assert float(kept.max()) == float(logits.max())
    nucleus = logits.softmax(-1)[torch.isfinite(keep_top_p(logits, p))]
    assert float(nucleus.sum()) >= p - 1e-5
    assert float(nucleus.sum() - nucleus.min()) < p + 1e-5


def test_greedy_takes_the_likeliest_and_uses_no_randomness() -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert sample(LOGITS[:1], plain(temperature=0), generator).tolist() == [1]
    assert torch.equal(generator.get_state(), before)


def test_frequencies_follow_the_distribution_and_the_seed() -> None:
    many = LOGITS[:1].expand(20_000, -1)
    drawn = [sample(many, plain(), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    frequencies = torch.bincount(drawn[0], minlength=5) / len(many)
    torch.testing.assert_close(frequencies, LOGITS[0].exp(), rtol=0, atol=0.015)


def test_padding_ids_are_never_drawn() -> None:
    masked = rule_out_padding(LOGITS[1:].expand(1000, -1), 3)
    assert int(sample(masked, plain(), torch.Generator().manual_seed(0)).max()) == 2
    assert rule_out_padding(LOGITS, None) is LOGITS
    assert rule_out_padding(LOGITS, 5) is LOGITS


@pytest.mark.parametrize("settings", [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.1}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        SamplingConfig.model_validate(settings)
