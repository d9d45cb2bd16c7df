from simulated_sweep import objective, trial

from rayllm.tune.significance import judge
from rayllm.tune.significance_config import SignificanceConfig
from rayllm.tune.verdict_text import verdict_markdown


def test_the_table_shows_what_the_sentence_rests_on():
    values = [2.0, 2.01, 1.5, 1.51]
    results = [trial(n, {"lr": n // 2, "seed": n % 2}, value) for n, value in enumerate(values)]
    verdict = judge(results, objective, SignificanceConfig(leaders=0), {results[0].group: "a|b"}, seed=0)
    lines = verdict_markdown(verdict).splitlines()
    assert lines[0] == f"**{verdict.sentence}**"
    assert lines[2] == "| contender | seeds | mean | interval | behind the best | noise |"
    assert lines[4].startswith("| trial 2 | 2 | 1.5050 | 1.4835 to 1.5265 |")
    assert lines[5].startswith("| the baseline (a\\|b, trial 0) | 2 | 2.0050 |")
    assert lines[5].endswith(f"| 0.5000 | {verdict.leads[0].margin:.4f} |")
