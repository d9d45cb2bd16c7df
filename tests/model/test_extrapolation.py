from pathlib import Path

import pytest
import torch
from extrapolation import losses_by_length, read_bytes, table_line
from figures import Tell


@pytest.mark.slow
def test_alibi_reads_rows_longer_than_it_was_trained_on(shared_data: Path, tell: Tell) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    text = read_bytes(shared_data / "text" / "tinyshakespeare.txt")[:1_030_000]
    losses = losses_by_length("alibi", text, length=32, rows=16, steps=250, dim=48)
    torch.set_num_threads(threads)
    tell("rows longer than trained on", trained_at=32, loss_at_32_64_and_128=table_line("alibi", losses))
    assert losses[0] < 2.9, "a model that has learned nothing reads any length alike"
    assert max(losses) <= 1.05 * losses[0]
