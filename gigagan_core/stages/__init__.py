"""One module a pipeline stage, each with `run(settings, inputs, context) -> Artifact`."""
