"""A search over networks and recipes at equal time: candidates in DVC's own queue, judged by the pipeline's own stages."""
