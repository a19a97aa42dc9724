"""What MLflow keeps: runs on their way to the store, and the versions in its registry."""
