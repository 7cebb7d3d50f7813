"""The settings of a recipe about which text is read how often: weights, caps, phases."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from configs.base import AddedLater, Config, Name
from configs.data.languages import normalize_language
from configs.data.sources import Language

Weight = Annotated[float, Field(ge=0, le=1e6)]
"""A relative weight; 0: never."""


class PhaseConfig(Config):
    """How often each stream of text, one source in one language, is drawn in a phase of training."""

    source_weights: dict[Name, Weight] = {}
    """Relative weight of each source, by its name; either all sources have one or none. Empty: the weight of a source
    is its number of tokens."""

    temperature: float = Field(default=1.0, ge=1)
    """Within a source, a language's share is proportional to its share of tokens to the power 1/temperature: 1 keeps
    the proportions, larger values favour small languages."""

    language_weights: Annotated[dict[Language, Weight], AddedLater()] = {}
    """Relative weight of each language within its source, in place of its tokens and the temperature; either all
    languages have one or none."""

    budget_tokens: Annotated[int | None, Field(ge=1), AddedLater()] = None
    """How many tokens the phase has. Without one it has no end."""

    max_epochs: Annotated[float | None, Field(gt=0), AddedLater()] = None
    """How many times a stream is read at most by the end of the phase, those before it included, to within a few
    samples; what it leaves goes to the others. It needs budget_tokens, since the weights follow from both; a longer
    training declares a further phase."""

    @model_validator(mode="after")
    def _caps_have_a_budget(self) -> Self:
        if self.max_epochs is not None and self.budget_tokens is None:
            raise ValueError("max_epochs needs budget_tokens: how many tokens are to be read under it")
        if self.source_weights and not any(self.source_weights.values()):
            raise ValueError("source_weights are all 0; give a source a weight")
        if self.language_weights and not any(self.language_weights.values()):
            raise ValueError("language_weights are all 0; give a language a weight")
        if len(self.weights_by_language) < len(self.language_weights):
            raise ValueError("language_weights names a language twice, by two of its tags; keep one")
        return self

    @property
    def weights_by_language(self) -> dict[str, float]:
        """The weights of language_weights by label, as documents are labelled."""
        return {normalize_language(tag): weight for tag, weight in self.language_weights.items()}


class MixtureConfig(PhaseConfig):
    """How often each stream of text, one source in one language, is drawn."""

    phases: Annotated[tuple[PhaseConfig, ...], AddedLater()] = ()
    """Several phases, one after the other, in place of the keys above: a curriculum. All but the last need
    budget_tokens. Samples of a phase do not change when one is added after it."""

    @model_validator(mode="after")
    def _phases_follow_each_other(self) -> Self:
        own = [name for name, field in PhaseConfig.model_fields.items() if getattr(self, name) != field.default]
        if self.phases and own:
            raise ValueError(f"{own[0]} stands beside phases; put it into the phases that it is for")
        for number, phase in enumerate(self.phases[:-1]):
            if phase.budget_tokens is None:
                raise ValueError(
                    f"phases.{number} has no budget_tokens, and would never end; only the last may have none"
                )
        return self

    def all_phases(self) -> tuple[PhaseConfig, ...]:
        """Return the phases in order, of which there is at least one."""
        return self.phases or (self,)

    def where(self, number: int) -> str:
        """Return the name of a phase in the recipe."""
        return f"mixture.phases.{number}" if self.phases else "mixture"

    @property
    def budget(self) -> int | None:
        """Tokens of all phases; None without an end."""
        budgets = [phase.budget_tokens for phase in self.all_phases()]
        return None if None in budgets else sum(budget or 0 for budget in budgets)
