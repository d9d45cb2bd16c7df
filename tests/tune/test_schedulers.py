from rayllm.tune.schedulers import AshaScheduler, MedianScheduler, PbtScheduler


def test_rungs_of_halving_grow_by_the_reduction_and_end_before_the_trial():
    assert AshaScheduler().rungs(900) == [57, 228]
    assert AshaScheduler(first=50, reduction=4).rungs(800) == [50, 200]
    assert AshaScheduler(first=50, reduction=2).rungs(50) == []
    assert AshaScheduler().rungs(2) == [1]
    assert AshaScheduler(first=25, reduction=2.5).rungs(100) == [25, 63]  # not before step 62.5


def test_points_of_decision_follow_from_the_length_of_a_trial():
    assert MedianScheduler().first_step(100) == 25
    assert MedianScheduler(first=3).first_step(100) == 3
    assert PbtScheduler().interval(100) == 20
