"""A sweep planned and checked before anything runs: what all trials train, what is searched, what is lowered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rayllm.core.config_problems import field_paths
from rayllm.core.errors import ConfigError
from rayllm.data.mixing.stages import Curriculum
from rayllm.data.shards.packed import PackedData
from rayllm.pipelines import train
from rayllm.pipelines.tune.reference import read_curve
from rayllm.pipelines.tune.trial_runs import training_key
from rayllm.train.objective_config import PREFERENCE_LOSS, PREFERENCE_MEASURES, DpoConfig
from rayllm.tune.config import TuneConfig
from rayllm.tune.explore import explore
from rayllm.tune.objective import Objective
from rayllm.tune.results import SEED, TrialResult
from rayllm.tune.samplers.sampler import Sampler, distinct
from rayllm.tune.schedulers import AshaScheduler, NoScheduler, PbtScheduler
from rayllm.tune.search import baseline_names, baseline_settings, build_sampler, probes
from rayllm.tune.space import Settings, Space
from rayllm.tune.trials import Trial, apply_settings, check_paths, current, trial_configs

#: Settings that trials do not read: where a run is, and how many processes it has.
NOT_OF_A_TRIAL = ("name", "storage", "ray", "train.engine", "train.workers")
#: Settings that shape the reference of a run that compares replies; see ``pipelines.reference``.
OF_THE_REFERENCE = ("model", "train.init", "train.precision", "train.fp8", "train.seq_len", "train.objective.kind")
#: Settings that decide how many tokens a trial has read at a step, or at its end.
OF_THE_TOKENS = ("train.global_batch_tokens", "train.max_steps", "train.tokens", "train.tokens_per_param")
#: Those of a model that decide so with `train.tokens_per_param`: its sizes.
_SIZES = "dim num_layers num_heads num_kv_heads head_dim ffn_dim feed_forward embedding_rank tie_embeddings vocab_size"
OF_THE_SIZE = tuple(f"model.{name}" for name in _SIZES.split())
#: What `tune.max_steps` takes the place of.
_NO_OTHER_BUDGET = {"train.tokens": None, "train.tokens_per_param": None}
#: References that the sweep trains itself.
TRAINED_REFERENCES = ("natural", "uniform")


@dataclass(frozen=True)
class Plan:
    """A sweep before its first trial.

    Attributes:
        base: What a trial without settings trains.
        settings: The ``tune:`` section.
        space: Over the domains of the packed data.
        objective: What is lowered.
        baselines: What each baseline sets.
        names: Of the baselines, by group.
        reference: The settings to train before all others, for an objective that compares with them; else None.
    """

    base: train.Config
    settings: TuneConfig
    space: Space
    objective: Objective
    baselines: list[Settings]
    names: dict[str, str]
    reference: Settings | None

    def sampler(self) -> Sampler:
        """What proposes all trials, in its first state."""
        return build_sampler(self.settings, self.baselines, self.space, self.objective, self.base.seed)

    def explore(self, settings: Settings, number: int) -> Settings:
        """The settings with which a population's trial goes on from another's; see ``tune.explore``."""
        scheduler = self.settings.scheduler
        assert isinstance(scheduler, PbtScheduler), "only a population changes settings"
        return explore(self.space, scheduler, settings, self.settings.seed, number)

    def against(self, reference: TrialResult) -> "Plan":
        """The same sweep, when its reference is trained."""
        return replace(self, objective=self.objective.against(reference.curve), reference=None)


def natural_shares(packed: PackedData) -> dict[str, float]:
    """The share of each training domain in the tokens."""
    tokens = {name: packed.stream("train", name).num_tokens for name in packed.domains("train")}
    total = sum(tokens.values()) or 1
    return {name: count / total for name, count in tokens.items()}


def make_plan(base: train.Config, settings: TuneConfig, shares: Mapping[str, float], validated: Sequence[str]) -> Plan:
    """Plan a sweep.

    Args:
        base: The part of the run file that training reads.
        settings: Its ``tune:`` section.
        shares: Natural share of each training domain.
        validated: Validation domains.

    Raises:
        ConfigError: If the space or the objective names what does not exist, or a trial would be no valid run.
    """
    if settings.max_steps is not None:
        base = apply_settings(base, {"train.max_steps": settings.max_steps, **_NO_OTHER_BUDGET})
    weighted = [index for index, stage in enumerate(base.curriculum) if stage.weights is not None]
    _check_settings(base, settings)
    space = Space(settings.space, shares)
    objective = _objective(base, settings, validated)
    compared = [settings.reference] if objective.needs_reference and settings.reference in TRAINED_REFERENCES else []
    named = baseline_settings([*settings.baselines, *compared], weighted)
    spelled = _spelled_alike(base, [_whole(base, space, one) for one in named])
    baselines, reference = spelled[: len(settings.baselines)], spelled[len(settings.baselines) :]
    names, made = baseline_names(settings.baselines, baselines), distinct(baselines)
    found = probes(settings, made, space)
    trials = trial_configs(base, [Trial(index, one) for index, one in enumerate(found)])
    if not isinstance(settings.scheduler, NoScheduler):
        _check_nothing_counts_validations(trials)
    if isinstance(settings.scheduler, AshaScheduler | PbtScheduler):
        _check_nothing_goes_back(trials)
    return Plan(base, settings, space, objective, made, names, reference[0] if reference else None)


def _whole(base: train.Config, space: Space, settings: Settings) -> Settings:
    """A baseline with what the run file has for the rest of the space, so that a sample which is the same is known."""
    known = {**current(base, space.dimensions), **settings}
    return {**settings, **space.walk(lambda path, _: known.get(path), only=known)}


def _spelled_alike(base: train.Config, settings: Sequence[Settings]) -> list[Settings]:
    """Settings that mean the same training as the first of them: it runs once, and its result is filed under these."""
    seeds = [{path: value for path, value in one.items() if path == SEED} for one in settings]
    rest = [{path: value for path, value in one.items() if path != SEED} for one in settings]
    configs = trial_configs(base, [Trial(index, one) for index, one in enumerate(rest)])
    first: dict[str, Settings] = {}
    alike = [first.setdefault(training_key(config), one) for config, one in zip(configs, rest, strict=True)]
    return [{**one, **seed} for one, seed in zip(alike, seeds, strict=True)]


def _objective(base: train.Config, settings: TuneConfig, validated: Sequence[str]) -> Objective:
    compares = isinstance(base.train.objective, DpoConfig)
    objective = Objective.parse(
        settings.objective, validated, measures=(PREFERENCE_LOSS, *PREFERENCE_MEASURES) if compares else ()
    )
    if objective.needs_reference and settings.reference not in TRAINED_REFERENCES:
        return objective.against(read_curve(settings.reference))
    return objective


def _check_nothing_counts_validations(trials: Sequence[train.Config]) -> None:
    """Refuse to look at trials more often where each look changes them: the best one would be no run by itself."""
    counting = {
        "mixture.adaptive": any(one.mixture.adaptive for one in trials),
        "train.guards.early_stopping": any(one.train.guards.early_stopping for one in trials),
    }
    if found := [path for path, counts in counting.items() if counts]:
        raise ConfigError(
            f"the scheduler's validations would change what trials learn: `{found[0]}` counts them",
            where="tune.scheduler",
            why="a run by itself, and the trials that confirm the leaders, have no validations at rungs",
            fix=f"take `kind: none`, or leave `{found[0]}` out of the sweep",
        )


def _check_nothing_goes_back(trials: Sequence[train.Config]) -> None:
    """Refuse to move the checkpoints of trials that go back to them: the best one would be no run by itself."""
    if any(one.train.guards.spikes.action == "rollback" for one in trials):
        raise ConfigError(
            "the scheduler's checkpoints would change what trials learn: `train.guards.spikes.action: rollback` goes "
            "back to them",
            where="tune.scheduler",
            why="trials save where they are compared, and a run by itself where `train.checkpoint` says",
            fix="take another scheduler, or `train.guards.spikes.action: skip`",
        )


def _check_settings(base: train.Config, settings: TuneConfig) -> None:
    known = [path for path in field_paths(train.Config) if not _below(path, NOT_OF_A_TRIAL)]
    named = [path for one in settings.baselines if not isinstance(one, str) for path in one]
    check_paths(settings.space, known, "tune.space")
    check_paths(named, known, "tune.baselines")
    _check_weights_are_read(base.curriculum, settings)
    if not isinstance(settings.scheduler, NoScheduler):
        _check_equal_tokens(base, [*settings.space, *named])
    if isinstance(base.train.objective, DpoConfig):
        _check_one_reference([*settings.space, *named])


def _check_one_reference(paths: Sequence[str]) -> None:
    """Refuse to vary what the reference's log-probabilities were computed with: all trials read the same."""
    if fixed := sorted(path for path in paths if _below(path, OF_THE_REFERENCE)):
        raise ConfigError(
            f"the sweep varies `{fixed[0]}`, on which the reference's log-probabilities depend",
            where="tune",
            why="they are computed once, and every trial reads the same",
            fix="make a sweep for each value",
        )


def _check_equal_tokens(base: train.Config, paths: Sequence[str]) -> None:
    """Refuse to compare trials before their end that have read more tokens than others, or are longer."""
    unequal = (*OF_THE_TOKENS, *(OF_THE_SIZE if base.train.tokens_per_param else ()))
    of_a_stage = [path for path in paths if path.startswith("curriculum.") and path.endswith(".global_batch_tokens")]
    if found := sorted({*of_a_stage, *(path for path in paths if _below(path, unequal))}):
        raise ConfigError(
            f"the sweep varies `{found[0]}`, and its scheduler would compare trials at unequal tokens",
            where="tune.scheduler",
            why="trials are compared at the same step, at steps that are counted from the run file as it is",
            fix="take `kind: none`, or make a sweep for each value"
            + (" (or set tune.max_steps)" if found[0].startswith("model.") else ""),
        )


def _below(path: str, prefixes: Sequence[str]) -> bool:
    return any(path == prefix or path.startswith(f"{prefix}.") for prefix in prefixes)


def _check_weights_are_read(curriculum: Curriculum, settings: TuneConfig) -> None:
    """Refuse to vary weights that every stage of the curriculum overrides: all trials would be the same."""
    varied = "mixture.weights" in settings.space
    if varied and curriculum and all(stage.weights is not None for stage in curriculum):
        raise ConfigError(
            "the sweep varies `mixture.weights`, which no stage of the curriculum uses",
            where="tune.space",
            fix="vary `curriculum.0.weights`, or remove the weights of a stage",
        )
