"""Shapes in the signatures of model and sampler are checked while these tests run."""

from jaxtyping import install_import_hook

install_import_hook(["rayllm.model", "rayllm.inference"], "beartype.beartype")
