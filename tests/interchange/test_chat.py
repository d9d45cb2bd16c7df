"""The chat template of an exported model: transformers asks with the very tokens that ``rayllm sample --chat`` does."""

from pathlib import Path
from typing import Any, get_args

import pytest
from transformers import AutoTokenizer

from rayllm.interchange.hf_export import write_tokenizer_files
from rayllm.tokenizer.bpe import train_bpe
from rayllm.tokenizer.chat.config import BuiltinTemplate, ChatConfig, JinjaFile
from rayllm.tokenizer.chat.render import any_length
from rayllm.tokenizer.chat.template import CHAT_TEMPLATE, load_template, write_template
from rayllm.tokenizer.codec import Codec
from rayllm.tokenizer.freeze import freeze

QUESTION = [{"role": "user", "content": "What is 19 / 10?"}]
TALK = [*QUESTION, {"role": "assistant", "content": "1.9"}, {"role": "user", "content": "Sure?"}]
#: As others write them: with the separator, and with a blank that only a block at the beginning of a line takes away.
OTHERS = {
    "with separator": "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}",
    "indented": "  {% for m in messages %}\n{{ m.role }}: {{ m.content }}\n  {% endfor %}\n"
    "{% if add_generation_prompt %}assistant:{% endif %}",
}


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Codec]:
    """A directory with a tokenizer that has ChatML's tokens, and the tokenizer."""
    directory = tmp_path_factory.mktemp("tokenizer")
    texts = ["What is 12 + 7? It is 19.\n", "User: Hello\n\nAssistant: Hello there.\n"] * 10
    freeze(train_bpe(iter(texts), vocab_size=340, min_frequency=2, max_digits=3, num_reserved=0), str(directory))
    return directory, Codec.load(str(directory))


@pytest.mark.parametrize("name", [*get_args(BuiltinTemplate), *OTHERS])
def test_an_exported_template_asks_with_the_tokens_of_training(
    name: Any, codec: tuple[Path, Codec], tmp_path: Path
) -> None:
    directory, ours = codec
    if name in OTHERS:
        (tmp_path / "their.jinja").write_text(OTHERS[name])
    template = load_template(
        ChatConfig(template=JinjaFile(jinja=str(tmp_path / "their.jinja")) if name in OTHERS else name)
    )
    write_template(template, str(directory))
    for at in ("out", "again"):
        (tmp_path / at).mkdir()
    write_tokenizer_files(str(directory), tmp_path / "out", 64)
    theirs = AutoTokenizer.from_pretrained(str(tmp_path / "out"))
    assert theirs.bos_token_id == ours.separator_id
    assert theirs.encode(theirs.bos_token, add_special_tokens=False) == [ours.separator_id]
    for messages in (QUESTION, TALK):
        found = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
        assert found == any_length(template, ours).prompt_ids(messages)

    exported = (tmp_path / "out" / CHAT_TEMPLATE).read_text()
    (directory / CHAT_TEMPLATE).write_text(exported)
    write_tokenizer_files(str(directory), tmp_path / "again", 64)
    assert (tmp_path / "again" / CHAT_TEMPLATE).read_text() == exported, "the separator is written once"
