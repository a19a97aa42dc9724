"""The pipeline: one flat module a stage, over the pure core in `pipeline.diffusion`."""
