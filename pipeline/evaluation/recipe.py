"""The recipe of a tuned model: equal for models that differ only in the seed of their training."""

from pipeline.artefacts.files import canonical_json, parts_digest
from pipeline.artefacts.model import Description
from pipeline.params import Params


def recipe(description: Description, params: Params) -> str | None:
    """Digest of the training's code, data, schedule and params except for the seed, and of the params of later stages.

    None for models of releases that did not record the recipe.
    """
    trained = description.provenance.get("recipe_digest")
    if trained is None:
        return None
    later = {"evaluate": params.evaluate, "distil": params.distil if description.is_distilled else None}
    settings = {name: section.model_dump(mode="json") for name, section in later.items() if section}
    return parts_digest([str(trained).encode(), canonical_json(settings)])
