"""What a training run will take, counted before a GPU is paid for: memory, work, traffic, hours, cost."""
