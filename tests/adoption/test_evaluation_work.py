"""The work of an evaluation is known before it runs."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.adoption.evaluation_work import evaluation_work
from pipeline.artefacts.dataset import DatasetInfo
from pipeline.artefacts.sampling_defaults import SamplingDefaults
from pipeline.evaluation.tuning.guidance import candidates, most_tried
from pipeline.params import EvaluateParams
from tests.small_sets import evaluate_params

UNGUIDED = SamplingDefaults(sampler="dpmpp_2m", num_steps=10, guidance_scale=1.0)
SCALES = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0)


def work(params: EvaluateParams, num_classes: int) -> tuple[int, int]:
    names = tuple(f"class {number}" for number in range(num_classes)) or None
    info = DatasetInfo(image_size=8, channels=1, class_names=names, num_train=900, num_held_out=100, digest="")
    found = evaluation_work(params, info, num_timesteps=100)
    return found.num_rows, found.num_features


def test_all_scales_of_the_first_interval_may_be_tried_and_in_the_others_all_above_the_least() -> None:
    params = evaluate_params(guidance_scales=SCALES, guidance_intervals=((0.0, 1.0), (0.5, 0.9)))
    tried = most_tried(candidates(UNGUIDED, params))
    assert [each.guidance_scale for each in tried] == [*SCALES, *SCALES[1:]]
    assert [each.num_rows for each in tried] == [10, *[20] * 5, *[14] * 5]


@given(
    st.lists(st.floats(0, 20), min_size=1, max_size=6),
    st.lists(st.sampled_from([(0.0, 1.0), (0.5, 0.9), (0.01, 0.02), (0.3, 0.7)]), min_size=1, max_size=4),
    st.data(),
)
def test_no_course_of_the_choice_tries_more(
    scales: list[float], intervals: list[tuple[float, float]], data: st.DataObject
) -> None:
    params = evaluate_params(guidance_scales=tuple(scales), guidance_intervals=tuple(intervals))
    groups = candidates(UNGUIDED, params)
    most = most_tried(groups)
    tried: list[SamplingDefaults] = []
    for group in groups:
        # Whichever of those before was the best, and wherever the distance rose.
        above = data.draw(st.sampled_from(tried)).guidance_scale if tried else -1.0
        left = [each for each in group if each.guidance_scale > above]
        tried += left[: data.draw(st.integers(1, max(1, len(left))))]
    is_choice = len({each for group in groups for each in group}) > 1
    assert len(most) >= len(tried) if is_choice else not most


def test_classes_candidates_and_samples_cost_work() -> None:
    one, many = evaluate_params(), evaluate_params(guidance_scales=SCALES)
    assert work(one, 0) == work(many, 0)
    assert work(one, 2)[0] == work(one, 0)[0]
    assert work(many, 2) > work(one, 2)
    rows, features = work(one, 0)
    more_rows, more_features = work(one.model_copy(update={"num_samples": one.num_samples + 80}), 0)
    # Of the samples and of the mixture, in two feature spaces each, and of real images.
    assert (more_rows - rows, more_features - features) == (80 * one.num_steps, 80 * 5)
