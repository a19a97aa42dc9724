from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.engine.request import Request, SamplingParams
from service.engine.stats import Histogram, Stats


def _samples(stats: Stats) -> dict[tuple[str, str], float]:
    registry = CollectorRegistry()
    registry.register(stats)
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def _request(num_steps: int, guidance_scale: float = 1.0) -> Request:
    params = SamplingParams(seed=0, class_label=0, sampler="ddim", num_steps=num_steps, guidance_scale=guidance_scale)
    request = Request(request_id="r", owner="o", images=(params, params))
    request.submit(10.0)
    return request


def test_buckets_of_a_histogram_are_cumulative() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)
    assert histogram.buckets == [("1.0", 2), ("2.0", 3), ("+Inf", 4)]
    assert histogram.total == 12.0


def test_rows_are_counted_by_purpose() -> None:
    stats, jobs = Stats(), [*_request(5).jobs, *_request(5, 3.0).jobs]
    stats.count_forward(jobs, 8)
    stats.observe_tick(0.002)
    samples = _samples(stats)
    assert samples["foundry_unet_forwards_total", ""] == 1
    kinds = {kind: samples["foundry_row_steps_total", kind] for kind in ("image", "guidance", "padding")}
    assert kinds == {"image": 4, "guidance": 2, "padding": 2}
    assert samples["foundry_tick_seconds_bucket", "0.0025"] == 1


def test_requests_are_counted_by_outcome_and_timed_by_their_steps() -> None:
    stats, request = Stats(), _request(25)
    request.started, request.images_done = 10.2, 2
    for job in request.jobs:
        job.is_open = False
    stats.count_request(request, 12.0)
    samples = _samples(stats)
    assert samples["foundry_requests_total", "completed"] == 1
    assert samples["foundry_images_total", ""] == 2
    assert samples["foundry_request_seconds_count", "25"] == 1
    assert samples["foundry_request_seconds_count", "10"] == 0
    assert samples["foundry_queue_seconds_bucket", "0.25"] == 1


def test_all_series_exist_from_the_start() -> None:
    assert _samples(Stats()).keys() >= {
        ("foundry_requests_total", "failed"),
        ("foundry_request_seconds_count", "1000"),
        ("foundry_errors_total", "numerical_error"),
    }


def test_errors_are_counted_by_code() -> None:
    stats = Stats()
    stats.count_error("queue_full")
    assert _samples(stats)["foundry_errors_total", "queue_full"] == 1
