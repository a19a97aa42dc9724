"""From raw images to a checked manifest and prepared pixels: the work of the stage `prepare`.

Begin with `pipeline/prepare.py`, which calls these modules in order: `sources/` divides raw images into shards,
`examination` has `workers` examine these and appends their pixels to a `spool`, `manifest` assigns classes, duplicates and
splits, `expectations` checks the manifest, and `validation` holds the results. `shards` examines one shard, unless that was
done before, by `batches` of images that are decoded (`decode`) and measured (`perceptual_hash`).

A new kind of raw data goes to `sources/`, a new check to `expectations.suite`. The room imports `pipeline.artefacts`,
`pipeline.params` and `pipeline.errors`, and no other room; only `expectations` imports Great Expectations.
"""
