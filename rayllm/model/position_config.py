"""How a model knows where a token stands: the choices, as configs."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rayllm.core.config import ConfigModel, Count


class LinearScaling(ConfigModel):
    """All positions are divided by the factor.

    Source: Chen et al. 2023, Extending Context Window via Positional Interpolation, arXiv:2306.15595, section 2.3.
    """

    kind: Literal["linear"] = Field(default="linear", description="Divide positions by the factor.")
    factor: float = Field(..., ge=1, description="How many times longer the context becomes.")


class NTKScaling(ConfigModel):
    """The base grows, so that the slowest wavelength is stretched by the factor and the fastest stays.

    Source: bloc97 2023, NTK-aware scaled RoPE; Peng et al. 2023, YaRN, arXiv:2309.00071, equation 16.
    """

    kind: Literal["ntk"] = Field(default="ntk", description="Raise theta; fast wavelengths stay.")
    factor: float = Field(..., ge=1, description="How many times longer the context becomes.")


class YarnScaling(ConfigModel):
    """Slow wavelengths are interpolated, fast ones stay, attention becomes a little sharper.

    Source: Peng et al. 2023, YaRN, arXiv:2309.00071, sections 3.2 to 3.4.
    """

    kind: Literal["yarn"] = Field(default="yarn", description="NTK by parts, with a temperature of attention.")
    factor: float = Field(..., ge=1, description="How many times longer the context becomes.")
    original_max_seq_len: Count = Field(..., ge=1, description="Context of the model before, in tokens.")
    beta_fast: float = Field(default=32.0, gt=0, description="Wavelengths that turn more often than this stay.")
    beta_slow: float = Field(default=1.0, gt=0, description="Those that turn less often are interpolated.")

    @model_validator(mode="after")
    def _ordered(self) -> "YarnScaling":
        if self.beta_slow >= self.beta_fast:
            raise ValueError(f"beta_slow {self.beta_slow:g} must be below beta_fast {self.beta_fast:g}")
        return self


class Llama3Scaling(ConfigModel):
    """Slow wavelengths are interpolated, fast ones stay, between them a straight line.

    Source: Llama Team 2024, The Llama 3 Herd of Models, arXiv:2407.21783; the formula is that of their released code.
    """

    kind: Literal["llama3"] = Field(default="llama3", description="The scaling of Llama 3.1 and later.")
    factor: float = Field(..., ge=1, description="How many times longer the context becomes.")
    original_max_seq_len: Count = Field(..., ge=1, description="Context of the model before, in tokens.")
    low_freq_factor: float = Field(default=1.0, gt=0, description="Wavelengths above context / this are interpolated.")
    high_freq_factor: float = Field(default=4.0, gt=0, description="Wavelengths below context / this stay.")

    @model_validator(mode="after")
    def _ordered(self) -> "Llama3Scaling":
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError("low_freq_factor must be below high_freq_factor")
        return self


RopeScaling = Annotated[LinearScaling | NTKScaling | YarnScaling | Llama3Scaling, Field(discriminator="kind")]


class RopePositions(ConfigModel):
    """Queries and keys are turned by angles that grow with the position."""

    kind: Literal["rope"] = Field(default="rope", description="Rotary positions.")
    theta: float = Field(default=10_000.0, gt=1, description="Base of the wavelengths; larger for longer contexts.")
    scaling: RopeScaling | None = Field(default=None, description="Stretch a trained context; null: as it is.")


class AlibiPositions(ConfigModel):
    """Scores fall with the distance, by a slope of each head's own.

    Source: Press et al. 2022, Train Short, Test Long, arXiv:2108.12409, section 3.
    """

    kind: Literal["alibi"] = Field(default="alibi", description="Attention with linear biases.")


class LearnedPositions(ConfigModel):
    """A vector for each position is added to the embedding; it begins again at each document.

    Source: Radford et al. 2019, Language Models are Unsupervised Multitask Learners, section 2.3.
    """

    kind: Literal["learned"] = Field(default="learned", description="A trained vector for each position.")


class NoPositions(ConfigModel):
    """Order is known from the causal mask alone.

    Source: Kazemnejad et al. 2023, The Impact of Positional Encoding on Length Generalization, arXiv:2305.19466.
    """

    kind: Literal["none"] = Field(default="none", description="No positions.")


Positions = Annotated[
    RopePositions | AlibiPositions | LearnedPositions | NoPositions,
    Field(discriminator="kind"),
]
