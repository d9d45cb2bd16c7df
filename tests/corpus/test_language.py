import json
from pathlib import Path

import pytest
from py3langid.langid import LanguageIdentifier
from pydantic import ValidationError

from rayllm.corpus.language import LANGUAGES, UNKNOWN, LanguageConfig, identify

SENTENCES = {
    "en": "The people of the village walk to the river every morning and come back in the evening.",
    "de": "Die Leute des Dorfes gehen jeden Morgen zum Fluss und kommen am Abend wieder zur\u00fcck.",
    "fr": "Les gens du village marchent jusqu'\u00e0 la rivi\u00e8re chaque matin et reviennent le soir.",
    "ru": "\u041b\u044e\u0434\u0438 \u0434\u0435\u0440\u0435\u0432\u043d\u0438 \u043a\u0430\u0436\u0434\u043e\u0435 "
    "\u0443\u0442\u0440\u043e \u0438\u0434\u0443\u0442 \u043a \u0440\u0435\u043a\u0435.",
    "ja": "\u6751\u306e\u4eba\u3005\u306f\u6bce\u671d\u5ddd\u3078\u6b69\u3044\u3066\u884c\u304d\u307e\u3059\u3002",
}


@pytest.fixture(scope="module")
def reference() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file("data/model.npz.xz", norm_probs=True)


def test_each_text_of_a_batch_gets_its_own_language() -> None:
    found = identify(list(SENTENCES.values()))
    assert [language for language, _ in found] == list(SENTENCES)
    assert all(0.5 < probability <= 1 for _, probability in found)


def test_results_are_those_of_py3langid_whatever_the_neighbours(reference: LanguageIdentifier) -> None:
    texts = [*SENTENCES.values(), "SHOUTING ALL THE TIME", SENTENCES["en"] * 40, SENTENCES["fr"][:20]]
    for text, (language, probability) in zip(texts, identify(texts), strict=True):
        expected, confidence = reference.classify(text[:1000])
        assert language == expected
        assert probability == pytest.approx(confidence, abs=1e-4)
        assert identify([text]) == [(language, pytest.approx(probability, abs=1e-5))]


def test_a_text_without_any_sign_has_no_language() -> None:
    assert identify(["", "\n", "a", "12 34"]) == [(UNKNOWN, 0.0)] * 4
    assert identify([]) == []


def test_only_the_beginning_is_looked_at() -> None:
    mixed = SENTENCES["en"] * 3 + SENTENCES["ru"] * 30
    assert identify([mixed], sample_chars=200)[0][0] == "en"
    assert identify([mixed], sample_chars=4000)[0][0] == "ru"


def test_what_is_kept_depends_on_language_and_certainty() -> None:
    config = LanguageConfig(keep=["en", "fr"], min_probability=0.6)
    assert config.keeps("fr", 0.6)
    assert not config.keeps("fr", 0.59)
    assert not config.keeps("de", 0.99)
    assert not LanguageConfig(min_probability=0).keeps(UNKNOWN, 0)


def test_unknown_languages_are_refused() -> None:
    assert set(reference_labels()) == LANGUAGES
    with pytest.raises(ValidationError, match="english"):
        LanguageConfig(keep=["english"])


def reference_labels() -> list[str]:
    return LanguageIdentifier.from_model_file("data/model.npz.xz").labels


def test_the_declaration_of_human_rights_is_told_apart_in_its_languages(shared_data: Path) -> None:
    lines = (shared_data / "text" / "udhr_multilingual.jsonl").read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    found = identify([row["text"] for row in rows])
    wrong = {
        row["lang"]: language for row, (language, _) in zip(rows, found, strict=True) if not_of(row["lang"], language)
    }
    assert wrong == {"ind": "ms"}  # Indonesian and Malay: the declarations share most of their words


def not_of(file_code: str, language: str) -> bool:
    """Whether an ISO 639-1 code is not that of a file, whose name begins with an ISO 639-3 code."""
    special = {
        "deu": "de", "spa": "es", "por": "pt", "nld": "nl", "swe": "sv", "pol": "pl", "ces": "cs", "tur": "tr",
        "ell": "el", "arb": "ar", "pes": "fa", "ben": "bn", "vie": "vi", "cmn": "zh", "yor": "yo", "hye": "hy",
        "jpn": "ja", "kat": "ka", "bul": "bg", "khm": "km", "ind": "id", "eng": "en", "fra": "fr", "ita": "it",
        "dan": "da", "fin": "fi", "hun": "hu", "ron": "ro", "rus": "ru", "ukr": "uk", "heb": "he", "hin": "hi",
        "tam": "ta", "mar": "mr", "tha": "th", "kor": "ko", "swh": "sw", "amh": "am",
    }  # fmt: skip
    return special[file_code[:3]] != language
