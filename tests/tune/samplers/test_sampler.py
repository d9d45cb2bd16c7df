from planted import ended, search

from rayllm.tune.samplers.sampler import ListSampler, distinct


def test_a_list_is_proposed_in_order_each_settings_once():
    sampler = ListSampler([{"a": 1}, {"a": 2, "b": 1}, {"a": 1}, {"b": 1, "a": 2}, {}])
    assert not sampler.done
    assert [settings for settings, _ in search(sampler, 9, value=lambda _: 0.0)] == [{"a": 1}, {"a": 2, "b": 1}, {}]
    assert sampler.done
    sampler.tell(ended({"a": 1}, 1.0))
    assert sampler.ask() is None


def test_settings_of_different_types_are_not_the_same():
    assert distinct([{"a": 1}, {"a": 1.0}, {"a": "1"}, {"a": True}, {"a": 1}]) == [
        {"a": 1},
        {"a": 1.0},
        {"a": "1"},
        {"a": True},
    ]
