"""The samplers by name, apart from their maths: the command line and the API list them without loading torch."""

from typing import Literal, get_args

Sampler = Literal["ddpm", "ddim", "dpmpp_2m"]

SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)
