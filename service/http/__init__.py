"""The HTTP side of the service: from bytes of a request to bytes of a response.

Start with `middleware.py` (what every request passes) and `api.py` (the endpoints). `schemas.py` holds the JSON bodies,
`validation.py` turns one into a request for the engine, `responses.py` and `event_stream.py` turn its images into an
answer.

It may import `service.engine`, `service.runtime`, `service.settings` and `service.errors`; it does not import torch
itself.
"""
