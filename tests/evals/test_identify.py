import json
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayllm.evals.identify import BUCKETS, ORDERS, fit_identifier, ngram_buckets

TEXTS = {
    "english": ["The river ran past the old mill, and the children played beside it until the evening came."] * 3,
    "math": ["Compute 17 + 25. 17 + 25 = 42. So the answer is 42. Then 42 / 6 = 7 and 7 * 3 = 21."] * 3,
    "code": ["def add(self, left, right):\n    if left is None:\n        return right\n    return left + right\n"] * 3,
}


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("and the old river came past the children", "english"),
        ("12 + 30 = 42. So 42 / 7 = 6", "math"),
        ("    def __init__(self, right):\n        return None", "code"),
    ],
)
def test_a_text_is_given_to_the_domain_whose_ngrams_it_shares(text: str, domain: str) -> None:
    assert fit_identifier(TEXTS).identify(text) == domain


def test_blank_text_belongs_nowhere() -> None:
    assert fit_identifier(TEXTS).identify(" \n\t") is None


def test_a_domain_that_has_more_text_is_not_favoured() -> None:
    longer = {**TEXTS, "math": TEXTS["math"] * 50}
    assert fit_identifier(longer).identify("the children played beside the river") == "english"


@given(st.text(max_size=50))
def test_every_ngram_of_a_text_has_one_bucket(text: str) -> None:
    buckets = ngram_buckets(text)
    assert len(buckets) == sum(max(0, len(text) - order + 1) for order in ORDERS)
    assert ((buckets >= 0) & (buckets < BUCKETS)).all()


def test_ngrams_that_differ_rarely_share_a_bucket() -> None:
    text = "".join(chr(33 + i) for i in range(90))
    assert len(set(ngram_buckets(text).tolist())) > 0.99 * len(ngram_buckets(text))


def test_a_domain_without_text_is_named() -> None:
    with pytest.raises(ValueError, match="'empty'"):
        fit_identifier({**TEXTS, "empty": []})


def test_real_text_is_identified_by_its_domain(shared_data: Path) -> None:
    code = (Path(sysconfig.get_paths()["stdlib"]) / "argparse.py").read_text()
    maths = [
        json.loads(line)["answer"] for line in (shared_data / "math/gsm8k_train.jsonl").read_text().split("\n")[:400]
    ]
    prose = (shared_data / "text/wikitext2_valid.txt").read_text()
    held_out = {"code": code[60_000:], "math": " ".join(maths[200:]), "english": prose[60_000:120_000]}
    identifier = fit_identifier({"code": [code[:60_000]], "math": maths[:200], "english": [prose[:60_000]]})
    pieces = [(domain, text[i : i + 150]) for domain, text in held_out.items() for i in range(0, 15_000, 150)]
    correct = sum(identifier.identify(piece) == domain for domain, piece in pieces)
    assert correct / len(pieces) > 0.97
