"""Compare the best linear denoiser's error on the images that it is made from with that on held-out ones.

    python -m benchmarks.linear_denoiser --data ~/emoji-project/data --out benchmarks/results/linear_denoiser.json

The data are those of a project after its stages `prepare` and `schedule`.
"""

from pathlib import Path

from benchmarks.protocol import finish, parser, table
from pipeline.artefacts.dataset import Dataset
from pipeline.artefacts.schedule_table import read_schedule_table
from pipeline.artefacts.subset import evenly_spaced, images_for_levels
from pipeline.diffusion.gaussian import held_out_linear_denoiser_mse, linear_denoiser_mse
from pipeline.diffusion.moments import image_moments
from pipeline.schedule import batches

NUM_LEVELS = 12


def main() -> None:
    made = parser("linear_denoiser", __doc__)
    made.add_argument("--data", type=Path, default=Path("data"), help="folder with prepared and schedule")
    arguments = made.parse_args()
    dataset = Dataset.open(arguments.data / "prepared")
    schedule = read_schedule_table(arguments.data / "schedule" / "table.parquet").schedule
    train = dataset.split("train")
    moments = image_moments(batches(evenly_spaced(train, len(train))))
    held_out = moments.variances_of(batches(images_for_levels(dataset.split("held_out"))))
    errors = {
        "snr": schedule.snr,
        "on_training_images": linear_denoiser_mse(moments.eigenvalues, schedule),
        "on_held_out_images": held_out_linear_denoiser_mse(moments.eigenvalues, held_out, schedule),
    }
    # Levels at equal distances in t show the images; those of little noise are between the first two.
    levels = [0, 2, 8, 21, 47, *range(99, schedule.num_timesteps, schedule.num_timesteps // NUM_LEVELS)]
    rows = [{"t": t, **{name: float(values[t]) for name, values in errors.items()}} for t in levels]
    document = {"num_train": len(train), "num_values": len(moments.eigenvalues), "levels": rows}
    finish(arguments, document, table(list(rows[0]), [list(row.values()) for row in rows]))


if __name__ == "__main__":
    main()
