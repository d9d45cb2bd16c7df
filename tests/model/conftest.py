"""Shapes in the signatures of the model are checked while these tests run."""

from jaxtyping import install_import_hook

install_import_hook("rayllm.model", "beartype.beartype")
