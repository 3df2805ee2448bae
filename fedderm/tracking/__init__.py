"""A run's tables shown elsewhere: TensorBoard's event files, and an MLflow store where one is configured."""
