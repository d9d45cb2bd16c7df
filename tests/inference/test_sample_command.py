import argparse
from pathlib import Path

import pytest

from rayllm.commands import sample
from rayllm.core.errors import ConfigError


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    sample.add_arguments(parser)
    return sample.run(parser.parse_args(arguments))


def test_the_prompt_and_its_continuation_go_to_standard_output_and_the_rest_to_standard_error(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(str(checkpoint), "the quick", "--max-new-tokens", "8", "--device", "cpu") == 0
    out, err = capsys.readouterr()
    assert out.startswith("the quick")
    assert len(out) > len("the quick\n")
    assert out.endswith("\n")
    assert "step 7" in err
    assert str(checkpoint) in err


def test_streamed_text_equals_text_written_at_once(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = (str(checkpoint), "the", "--max-new-tokens", "20", "--greedy", "--device", "cpu")
    run(*options)
    streamed = capsys.readouterr().out
    run(*options, "--num", "2")
    assert capsys.readouterr().out == f"--- 1 ---\n{streamed}--- 2 ---\n{streamed}"


def test_the_same_seed_writes_the_same(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for seed in ("1", "1", "2"):
        run(str(checkpoint), "--seed", seed, "--temperature", "2", "--device", "cpu")
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--temperature", "-1"), "--temperature is -1.0"),
        (("--top-p", "2"), "--top-p is 2.0"),
        (("--num", "0"), "--num is 0"),
        (("--max-new-tokens", "0"), "--max-new-tokens is 0"),
        (("--max-new-tokens", "64", "--device", "cpu"), "ask for at most 63"),
    ],
)
def test_options_that_cannot_be_obeyed_are_refused(checkpoint: Path, options: tuple[str, ...], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        run(str(checkpoint), *options)
