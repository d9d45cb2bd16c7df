import dataclasses
from collections.abc import Callable

import pytest

from rayllm.core.artifact import Artifact
from rayllm.data.shards.format import ConversationCounts
from rayllm.report.collect import RunRecords, collect
from rayllm.report.config import ReportConfig
from rayllm.report.data_tables import conversations_table, corpus_table, drops_table, mixture_table, tokenizer_table
from rayllm.report.metrics_log import MetricsLog
from rayllm.report.mixture import planned_tokens, realised_tokens
from rayllm.report.plots import all_charts
from rayllm.report.render import TABLES
from rayllm.report.run_tables import events_table, settings_table, time_table, trials_table
from rayllm.report.score_tables import HISTORY_ROWS, history_table, preferences_table, validation_table
from rayllm.report.summary import preference_figures
from rayllm.report.table import Cell, Column, Table

Artifacts = dict[str, Artifact]


@pytest.fixture(scope="module")
def records(fake_run: Artifacts) -> RunRecords:
    return collect("quickstart", fake_run)


def cells(table: Table | None, name: str) -> dict[str, str]:
    """The texts of the row that begins with a name, by full label of the column."""
    assert table is not None
    row = next(row for row in table.rows if row[0].text == name)
    texts = [cell.text.replace("\u00a0", " ").replace("\u2212", "-") for cell in row]
    return dict(zip((column.full_label for column in table.columns), texts, strict=True))


def test_a_domain_is_shown_before_and_after_training_and_against_the_bigram(records: RunRecords) -> None:
    row = cells(validation_table(records), "math")
    scores = records.scores
    assert scores is not None
    after, before = scores["domains"]["math"], scores["before"]["math"]
    assert row["Bits per byte, before"] == f"{before['bits_per_byte']:.3f}"
    assert row["Bits per byte, after"] == f"{after['bits_per_byte']:.3f}"
    assert row["Bits per byte, change"] == f"{100 * (after['bits_per_byte'] / before['bits_per_byte'] - 1):.1f} %"
    assert row["Bits per byte, bigram"] == "1.790"
    assert row["Surprise ratio, after"] == f"{after['surprise_ratio']:.2f}"


def test_the_mean_of_the_table_is_the_mean_of_the_domains(records: RunRecords) -> None:
    assert records.scores is not None
    row = cells(validation_table(records), "mean")
    assert row["Bits per byte, after"] == f"{records.scores['mean_bits_per_byte']:.3f}"


def test_a_run_that_was_not_evaluated_shows_its_last_validation(records: RunRecords) -> None:
    row = cells(validation_table(dataclasses.replace(records, scores=None)), "english")
    assert row["Bits per byte, after"] == f"{records.metrics.validation[-1]['bits_per_byte/english']:.3f}"
    assert row["Bits per byte, bigram"] == "\u2013"


def test_a_worse_score_is_marked(records: RunRecords) -> None:
    scores = {"before": {"d": {"bits_per_byte": 1.0}}, "domains": {"d": {"bits_per_byte": 2.0}}}
    table = validation_table(dataclasses.replace(records, scores=scores))
    assert table is not None
    assert table.rows[0][3].tone == "bad"


def test_a_long_history_keeps_its_first_and_last_rows(records: RunRecords) -> None:
    history = tuple({"step": step, "tokens": step * 10, "bits_per_byte/d": 1.0} for step in range(1000))
    table = history_table(RunRecords(name="long", metrics=MetricsLog(validation=history)))
    assert table is not None
    assert len(table.rows) <= HISTORY_ROWS + 1
    assert (table.rows[0][0].text, table.rows[-1][0].text) == ("0", "999")


def test_the_realised_mixture_is_compared_with_the_plan(records: RunRecords) -> None:
    realised, planned = realised_tokens(records), planned_tokens(records)
    assert list(realised) == ["english", "math", "code"]
    assert sum(planned.values()) == pytest.approx(records.metrics.train[-1]["tokens"])
    row = cells(mixture_table(records), "math")
    assert row["Share of tokens, planned"] == "25.00 %"
    assert row["Tokens, planned"] == "2.46 M"


def test_the_plan_counts_only_the_steps_that_were_done(records: RunRecords) -> None:
    half = [record for record in records.metrics.train if record["step"] <= 300]
    stopped = dataclasses.replace(records, metrics=MetricsLog(train=tuple(half)))
    assert sum(planned_tokens(stopped).values()) == pytest.approx(300 * 16_384)


def with_conversations(records: RunRecords, domain: str, **counts: int) -> RunRecords:
    """The same run, as if the training text of a domain were conversations."""
    assert records.packed is not None
    train = dict(records.packed.splits["train"])
    train[domain] = [one.model_copy(update={"conversations": ConversationCounts(**counts)}) for one in train[domain]]
    packed = records.packed.model_copy(update={"splits": records.packed.splits | {"train": train}})
    return dataclasses.replace(records, packed=packed)


def test_of_conversations_the_plan_counts_what_is_learnt(records: RunRecords) -> None:
    whole = planned_tokens(records)
    replies = planned_tokens(with_conversations(records, "math", kept=9, learnt_tokens=600_000))
    assert replies == {**whole, "math": pytest.approx(whole["math"] / 5)}


def test_a_plan_is_not_compared_where_nobody_counted_what_is_learnt(records: RunRecords) -> None:
    mixed = with_conversations(records, "math", kept=5, learnt_tokens=600_000)
    assert planned_tokens(mixed) == {}
    assert cells(mixture_table(mixed), "math")["Tokens, planned"] == "\u2013"
    assert "mixture" in all_charts(mixed, ReportConfig())


def test_drops_are_counted_by_rule_most_frequent_first(records: RunRecords) -> None:
    table = drops_table(records)
    assert table is not None
    assert [row[0].text for row in table.rows] == ["too short", "duplicate", "in validation"]
    assert cells(table, "duplicate") == {
        "Rule": "duplicate",
        "english": "1,380",
        "math": "0",
        "code": "61",
        "All": "1,441",
    }
    assert cells(corpus_table(records), "english")["Dropped, share"] == "21.7 %"


def test_compression_comes_from_the_packed_shards(records: RunRecords) -> None:
    row = cells(tokenizer_table(records), "math")
    assert (row["Training, tokens"], row["Training, bytes per token"], row["Tokens per word"]) == (
        "3.00 M",
        "2.42",
        "1.70",
    )


def test_conversations_show_what_was_left_out_of_them(records: RunRecords) -> None:
    assert conversations_table(records) is None
    assert records.packed is not None
    (shard,) = records.packed.splits["train"]["math"]
    found = ConversationCounts(kept=90, truncated=2, learnt_tokens=shard.tokens // 4, dropped={"too_long": 8})
    shards = {"math": [shard.model_copy(update={"conversations": found})]}
    packed = records.packed.model_copy(update={"splits": {"train": shards}})
    assert cells(conversations_table(dataclasses.replace(records, packed=packed)), "math") == {
        "Domain": "math",
        "Split": "train",
        "Conversations": "90",
        "Truncated": "2",
        "Left out": "too_long 8",
        "Tokens learnt": "25.0 %",
    }


def test_stages_show_their_time(records: RunRecords) -> None:
    table = time_table(records)
    assert cells(table, "train")["Wall time"] == "2 min 38 s"
    assert cells(table, "all")["Wall time"] == "3 min 40 s"


def test_events_show_warnings_of_all_attempts(records: RunRecords) -> None:
    table = events_table(records)
    assert table is not None
    assert table.rows[0][2] == Cell("warning", tone="bad")
    assert "rank 1 was killed" in table.rows[0][3].text


def test_settings_are_flattened_to_dotted_names() -> None:
    table = settings_table("Configuration", {"train": {"lr": 3e-4, "betas": [0.9, 0.95]}, "name": "x", "none": None})
    assert table is not None
    assert [(row[0].text, row[1].text) for row in table.rows] == [
        ("train.lr", "0.0003"),
        ("train.betas", "0.9, 0.95"),
        ("name", "x"),
        ("none", "\u2013"),
    ]


def test_a_sweep_shows_its_trials_best_first() -> None:
    trials = [
        {
            "trial": 3,
            "settings": {"mixture.weights": {"a": 0.25, "b": 0.75}},
            "metrics": {"mean_bits_per_byte": 1.25, "bits_per_byte/a": 1.0, "bits_per_byte/b": 1.5},
            "wall_s": 12.0,
            "value": 1.25,
            "error": "",
        },
        {"trial": 0, "settings": {}, "metrics": {}, "wall_s": 1.0, "value": None, "error": "out of memory\n..."},
    ]
    table = trials_table(RunRecords(name="s", sweep={"objective": "mean_bits_per_byte", "best": 3, "trials": trials}))
    row = cells(table, "3")
    assert (row["mean bits per byte"], row["mixture.weights"], row["Bits per byte, b"]) == (
        "1.2500",
        "a 0.25, b 0.75",
        "1.500",
    )
    assert cells(table, "0")["mean bits per byte"] == "failed"


def test_upper_heads_span_their_columns() -> None:
    columns = (Column("a"), Column("x", "G"), Column("y", "G"), Column("z", "H"), Column("b"))
    assert Table("t", columns, ()).groups == [("", 1), ("G", 2), ("H", 1), ("", 1)]
    assert Table("t", (Column("a"),), ()).groups == []


@pytest.mark.parametrize("name", list(TABLES))
def test_every_table_is_left_out_where_there_is_nothing_to_show(name: str) -> None:
    assert TABLES[name](RunRecords(name="empty")) is None


@pytest.mark.parametrize("name", [name for name in TABLES if name != "trials"])
@pytest.mark.parametrize("domains", [("english",), ("english", "math", "code")])
def test_rows_are_as_wide_as_their_heads(
    name: str, domains: tuple[str, ...], make_run: Callable[..., Artifacts]
) -> None:
    table = TABLES[name](collect("run", make_run(*domains)))
    if table is not None:
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert sum(span for _, span in table.groups) in (0, len(table.columns))


def test_pairs_are_shown_before_and_after_training(records: RunRecords) -> None:
    assert preferences_table(records) is None
    history = (
        {"step": 0, "preference_loss/a": 0.6931, "margin/a": 0.0, "accuracy/a": 0.5, "likelier/a": 0.4},
        {"step": 9, "preference_loss/a": 0.5, "margin/a": 1.25, "accuracy/a": 0.75, "likelier/a": 0.45},
    )
    compared = dataclasses.replace(records, metrics=MetricsLog(validation=history))
    row = cells(preferences_table(compared), "a")
    assert (row["Loss, first"], row["Margin, last"]) == ("0.6931", "1.250")
    assert (row["Accuracy, first"], row["Accuracy, last"]) == ("50.0 %", "75.0 %")
    assert row["Chosen is likelier, last"] == "45.0 %"
    assert preference_figures(records) == []
    first, last = ({**at, "mean_likelier": 0.4, "mean_accuracy": 0.75, "mean_margin": 1.25} for at in history)
    [accuracy, margin] = preference_figures(dataclasses.replace(records, metrics=MetricsLog(validation=(first, last))))
    assert [text.replace("\u00a0", " ") for text in (accuracy.value, accuracy.detail, margin.value)] == [
        "75.0 %",
        "chosen likelier at first: 40.0 %",
        "1.250",
    ]
