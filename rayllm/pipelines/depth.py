"""One dial for a whole run: ``depth: N`` gives sizes, learning rates, batch and tokens.

In: the tree of a run file. Out: the same tree with every derived setting laid under what the file says itself, which
always wins; what is derived later follows the file's own sizes. ``rayllm depth`` prints the table with the reasons.
Pure: nothing here needs torch or ray.

Source: the dial and the shape of the model are nanochat's (Karpathy 2025); the batch grows as in Bergsma et al. 2025,
Power Lines, arXiv:2505.13738; the tokens are those of Hoffmann et al. 2022, arXiv:2203.15556. The learning rates were
looked at on two sizes (``benchmarks/depth.py``, docs/results.md).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rayllm.core.config import parse_count
from rayllm.core.config_source import merge, set_path

#: Width for each layer, and channels of a head.
ASPECT, HEAD_DIM = 64, 128
SEQ_LEN = 2048
#: The batch that suits depth 12 at 20 tokens a parameter or so, and how it grows with the tokens, which are in
#: proportion to the blocks' parameters, and so to the cube of the depth.
REFERENCE_DEPTH, REFERENCE_BATCH_TOKENS, BATCH_EXPONENT = 12, 2**19, 0.383
TOKENS_PER_PARAM = 20.0
#: Width at which the learning rates of embedding and head are as written; they fall with its root. All three are 1.5
#: times nanochat's: the best of a sweep at depths 2 and 4.
BASE_WIDTH = 768
MATRIX_LR, EMBEDDING_LR, HEAD_LR = 0.03, 0.45, 0.012

#: The block that the dial sizes.
BLOCK: dict[str, tuple[Any, str]] = {
    "feed_forward": ("relu2", "no gate: two matrices, and zeros that cost nothing"),
    "norm": ("rmsnorm_unweighted", "gains are not needed before a matrix"),
    "qk_norm": ("unweighted", "scores stay bounded at high learning rates"),
    "embedding_norm": (True, "embeddings may grow without shrinking what the blocks add"),
    "tie_embeddings": (False, "embedding and head want different learning rates"),
    "logit_softcap": (15.0, "logits stay bounded"),
    "init_scale": ("fan_in", "activations keep their scale at any width"),
    "exportable": (False, "no class of transformers holds this block"),
}


@dataclass(frozen=True)
class Derived:
    """A setting that follows from the depth.

    Attributes:
        path: Its dotted name in the run file.
        value: What the dial says.
        reason: Where the value comes from.
        own: Whether the run file sets it itself, so that the dial's value is not used.
    """

    path: str
    value: Any
    reason: str
    own: bool


def expand(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Lay what the dial says under a run file's own settings.

    Args:
        tree: The run file, not yet checked; without ``depth`` it comes back as it is.
    """
    depth = tree.get("depth")
    if not isinstance(depth, int) or isinstance(depth, bool) or depth < 1:
        return dict(tree)
    base: dict[str, Any] = {}
    for setting in derive(depth, tree):
        base = set_path(base, setting.path.split("."), setting.value)
    return merge(base, dict(tree))


def derive(depth: int, tree: Mapping[str, Any]) -> list[Derived]:
    """Every setting that the dial gives, in the order in which they follow from each other.

    Args:
        depth: Transformer blocks.
        tree: What the run file says itself.
    """
    return [
        Derived(path, value, reason, own=_own(tree, path) is not None)
        for part in (_model(depth, tree), _train(depth, tree), _optimizer(depth, tree))
        for path, value, reason in part
    ]


def batch_tokens(depth: int) -> int:
    """Tokens of a step: the nearest power of two to ``2^19 (N / N_12)^0.383``, with N in proportion to depth³."""
    tokens = REFERENCE_BATCH_TOKENS * (depth / REFERENCE_DEPTH) ** (3 * BATCH_EXPONENT)
    return 2 ** round(math.log2(tokens))


def _model(depth: int, tree: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    head_dim = _number(tree, "model.head_dim", HEAD_DIM)
    dim = _number(tree, "model.dim", -(-ASPECT * depth // head_dim) * head_dim)
    heads = _number(tree, "model.num_heads", max(1, dim // head_dim))
    kind = _own(tree, "model.feed_forward") or BLOCK["feed_forward"][0]
    gated = str(kind).endswith("glu")
    ffn_dim = -(-8 * dim // 3 // 64) * 64 if gated else 4 * dim
    yield "model.num_layers", depth, "the depth"
    yield "model.dim", dim, f"{ASPECT} for each layer, up to whole heads of {head_dim}"
    yield "model.num_heads", heads, f"dim / {head_dim}"
    yield "model.num_kv_heads", heads, "every head has keys and values of its own"
    yield "model.ffn_dim", ffn_dim, "8/3 dim, since there is a gate" if gated else "4 dim"
    seq_len = _number(tree, "train.seq_len", SEQ_LEN)
    yield "model.max_seq_len", max(SEQ_LEN, seq_len), "the longest row"
    for name, (value, reason) in BLOCK.items():
        yield f"model.{name}", value, reason


def _train(depth: int, tree: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    budgets = ("max_steps", "tokens", "tokens_per_param")
    yield "train.seq_len", SEQ_LEN, "the same at every depth"
    yield (
        "train.global_batch_tokens",
        batch_tokens(depth),
        f"2^19 (depth / {REFERENCE_DEPTH})^{3 * BATCH_EXPONENT:.2f}, to a power of two",
    )
    if all(_own(tree, f"train.{name}") is None for name in budgets[:2]):
        yield "train.tokens_per_param", TOKENS_PER_PARAM, "where compute is the limit"


def _optimizer(depth: int, tree: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Muon's settings; a run file that chooses another kind gets none of them.

    What the file's own choices leave without use is left out: ``base_width``, and the rates of a head that is tied.
    """
    if (_own(tree, "train.optimizer.kind") or "muon") != "muon":
        return
    path = "train.optimizer"
    lr = _number(tree, f"{path}.lr", MATRIX_LR)
    yield f"{path}.kind", "muon", "Muon for matrices, AdamW for the rest"
    yield f"{path}.update_scale", "spectral", "an update whose learning rate holds at any width"
    yield f"{path}.lr", lr, "of the matrices: the same at every width"
    yield f"{path}.betas", [0.8, 0.95], "of embedding and head"
    yield f"{path}.width_scaling", "sqrt", "embedding and head: down with the root of the width"
    if _own(tree, f"{path}.width_scaling") != "none":
        yield f"{path}.base_width", BASE_WIDTH, "the width at which the next two are as written"
    yield f"{path}.groups.embedding.lr_scale", EMBEDDING_LR / lr, f"{EMBEDDING_LR:g} at width {BASE_WIDTH}"
    if _own(tree, "model.tie_embeddings"):
        return
    yield f"{path}.groups.head.lr_scale", HEAD_LR / lr, f"{HEAD_LR:g} at width {BASE_WIDTH}"
    yield f"{path}.groups.head.weight_decay", 0.0, "only matrices decay"


def _own(tree: Mapping[str, Any], path: str) -> Any:
    """What the run file says at a dotted path; None if it says nothing."""
    node: Any = tree
    for part in path.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _number(tree: Mapping[str, Any], path: str, derived: Any) -> Any:
    """The run file's own number where it has one that can be counted with, else the derived one."""
    own = parse_count(_own(tree, path))
    usable = isinstance(own, int | float) and not isinstance(own, bool) and own > 0
    return own if usable else derived
