"""What is looked at before anything queues: machine, GPUs, store, weights, servers; each finding with its mend."""
