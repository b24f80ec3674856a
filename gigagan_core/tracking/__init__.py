"""Records of what ran: one MLflow run a pipeline run, one child run a stage."""
