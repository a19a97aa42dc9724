"""The recipe of a tuned model: equal for models that differ by nothing but the seed of their training."""

from pipeline.artefacts.files import canonical_json, parts_digest
from pipeline.artefacts.model import Description
from pipeline.params import EvaluateParams


def recipe(description: Description, params: EvaluateParams) -> str | None:
    """Digest of code, data, schedule and params of the training without its seed, and of the params by which it was tuned.

    None for a model that does not know its recipe, as those of earlier releases.
    """
    trained = description.provenance.get("recipe_digest")
    if trained is None:
        return None
    return parts_digest([str(trained).encode(), canonical_json(params.model_dump(mode="json"))])
