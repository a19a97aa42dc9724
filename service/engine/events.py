"""Events that the engine sends to a request's listener: progress, previews, finished images and one end."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import ServiceError


@dataclass(frozen=True, slots=True)
class Progress:
    """Steps done, of all images of the request together, and who else was in the network call of the last one."""

    steps_done: int
    steps: int
    call_images: int
    """Images in that call, of all requests."""
    call_requests: int
    """Requests in that call."""


@dataclass(frozen=True, eq=False, slots=True)
class Preview:
    """The network's current estimate of the clean image `index`."""

    index: int
    number: int
    """Number of this preview of the image, from 0."""
    image: NDArray[np.uint8]
    """`[height, width, channels]`."""


@dataclass(frozen=True, eq=False, slots=True)
class Completed:
    """Image `index` is finished."""

    index: int
    image: NDArray[np.uint8]
    """`[height, width, channels]`."""


@dataclass(frozen=True, slots=True)
class End:
    """The last event of every request."""

    error: ServiceError | None = None
    """None: all images are finished."""


Event = Progress | Preview | Completed | End
