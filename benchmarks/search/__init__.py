"""Search over networks and recipes at equal time: candidates in DVC's queue, evaluated by the pipeline's own stages."""
