"""Raw files to a clean, deduplicated corpus: ``corpus.build.build`` on Ray Data.

In: nothing but the config. Out: the corpus artifact, see ``docs/design.md``. Tasks read and write files; only counts
come back to the driver, so its memory does not grow with the data, and a lost task is simply run again.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pydantic import Field, field_validator, model_validator

from rayllm.core.errors import RayllmError
from rayllm.core.stage import Work
from rayllm.corpus.build.build import build_corpus
from rayllm.corpus.fingerprint import files_digest
from rayllm.corpus.settings import BuildSettings
from rayllm.corpus.sources import SourceList, ValidationConfig, domain_name
from rayllm.pipelines.frame import Frame
from rayllm.pipelines.progress import track
from rayllm.pipelines.ray_errors import error_from_json, error_to_json
from rayllm.pipelines.ray_runtime import ensure_ray, quiet_libraries

VERSION = 1

#: Blocks of a Ray dataset; with more tasks than that, a block runs several, one after the other.
_MAX_BLOCKS = 4096


class Config(Frame):
    """What the stage reads."""

    sources: dict[str, SourceList] = Field(
        ..., min_length=1, description="Training domains: name to a source or a list of sources."
    )
    validation: ValidationConfig = Field(
        default=ValidationConfig(), description="Where validation documents come from."
    )
    prepare: BuildSettings = Field(default=BuildSettings(), description="Cleaning, rules, limits, shards.")

    @field_validator("sources")
    @classmethod
    def _plain_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        return {domain_name(name): sources for name, sources in value.items()}

    @model_validator(mode="after")
    def _validation_of_known_domains(self) -> "Config":
        for name in self.validation.sources:
            if name not in self.sources:
                raise ValueError(
                    f"validation.sources.{name}: there is no such domain in `sources` ({', '.join(self.sources)}); "
                    "validation domains have the names of training domains"
                )
        return self


def fingerprint(config: Config) -> dict[str, str]:
    """What the user's files look like now, by domain, so that changed files make another corpus.

    Sizes, and for local files their first and last 64 KiB too. What is made from this machine's own packages, or
    generated, is not looked at: a package installed later is no reason to train again.
    """
    parts = {"train": ("sources", config.sources), "validation": ("validation.sources", config.validation.sources)}
    return {
        f"{split}/{name}": files_digest(sources, f"{section}.{name}")
        for split, (section, domains) in parts.items()
        for name, sources in domains.items()
    } | _filters_fingerprint(config.prepare)


def _filters_fingerprint(settings: BuildSettings) -> dict[str, str]:
    """The same of what the filters learn from and look for, but of every byte: one label more changes all scores."""
    sets = settings.decontaminate.sets if settings.decontaminate is not None else {}
    found = {
        f"decontaminate/{name}": files_digest([source], f"prepare.decontaminate.sets.{name}", whole=True)
        for name, source in sets.items()
    }
    if settings.classifier is not None:
        examples = settings.classifier.examples
        found["classifier"] = files_digest(examples, "prepare.classifier.examples", whole=True)
    return found


def run(work: Work) -> dict[str, Any]:
    """Make the corpus artifact.

    Raises:
        DataError: If the sources cannot be used as they are.
        SetupError: If the artifact cannot be written.
    """
    config: Config = work.config
    ensure_ray(config.ray)
    return build_corpus(
        config.sources,
        config.validation,
        config.prepare,
        seed=config.seed,
        output=work.directory,
        scratch=work.scratch,
        run=run_on_ray,
        watch=track,
    )


def run_on_ray(task: Callable[[str], str], items: Sequence[str]) -> Iterator[str]:
    """Run a task for each item on the cluster, results in the items' order; see ``corpus.build.build.TaskMap``.

    Raises:
        RayllmError: As the task raised it; the others are cancelled.
    """
    if not items:
        return
    import ray.data

    quiet_libraries()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True

    def attempt(row: dict[str, Any]) -> dict[str, str]:
        try:
            return {"result": task(row["item"]), "error": ""}
        except RayllmError as error:
            return {"result": "", "error": error_to_json(error)}

    rows = [{"item": item} for item in items]
    dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MAX_BLOCKS)).map(attempt)
    for row in dataset.iter_rows():
        if row["error"]:
            raise error_from_json(row["error"])
        yield row["result"]
