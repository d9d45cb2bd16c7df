"""What a run minimises; ``train.objective`` of the run file."""

from typing import Annotated, Literal

from pydantic import Field

from rayllm.core.config import ConfigModel

#: What is measured of pairs of replies beside their loss, as means over them: the margin of the rewards, how often it
#: is positive, the rewards, and how often the preferred reply is likelier than the other, whatever the reference says.
PREFERENCE_MEASURES = ("margin", "accuracy", "chosen_reward", "rejected_reward", "likelier")
#: Those of them that are better where they are higher; rewards alone say little.
RISING_MEASURES = ("margin", "accuracy", "likelier")
#: The loss of pairs among the measures of a validation.
PREFERENCE_LOSS = "preference_loss"


class LanguageModelingConfig(ConfigModel):
    """Predict the next token: pretraining, and supervised fine-tuning on replies."""

    kind: Literal["language_modeling"] = Field(default="language_modeling", description="Predict the next token.")


class DpoConfig(ConfigModel):
    """Prefer one reply to another, against the model that the run begins with.

    Source: Rafailov et al. 2023, Direct Preference Optimization, arXiv:2305.18290; conservative DPO: Mitchell 2023, A
    note on DPO with noisy preferences.
    """

    kind: Literal["dpo"] = Field(default="dpo", description="Direct preference optimization on pairs of replies.")
    beta: float = Field(
        default=0.1, gt=0, description="How dear it is to move away from the model that the run begins with."
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=0.5, description="Share of the pairs whose preference is taken to be the wrong way round."
    )


#: An objective, by its ``kind``.
ObjectiveConfig = Annotated[LanguageModelingConfig | DpoConfig, Field(discriminator="kind")]
