"""What blocks compute again is the same on every engine: ZeRO 3 gathers their parameters once more for it."""

from pathlib import Path
from typing import Any

from ranks import run_ranks, small_config, train_small

LAYOUTS = [("torch", 0), ("deepspeed", 1), ("deepspeed", 2), ("deepspeed", 3)]
KINDS = ("none", "full", "selective")


def every_kind(directory: str) -> dict[tuple[str, int, str], dict[str, Any]]:
    return {
        (engine, stage, kind): train_small(
            f"{directory}/{engine}{stage}{kind}",
            engine,
            stage,
            small_config(max_steps=3, activation_checkpointing=kind, micro_batch_size=4),
        )
        for engine, stage in LAYOUTS
        for kind in KINDS
    }


def test_training_is_the_same_to_the_bit_on_every_engine(tmp_path: Path) -> None:
    for found in run_ranks(every_kind, 2, str(tmp_path)):
        for engine, stage in LAYOUTS:
            expected = found[engine, stage, "none"]
            for kind in KINDS[1:]:
                result = found[engine, stage, kind]
                assert result["losses"] == expected["losses"]
                for name, weights in expected["weights"].items():
                    assert result["weights"][name].equal(weights), f"{name}, ZeRO {stage}, {kind}"
