"""Where the work of a stage is done: in this process, as a job of a Ray cluster, or as a RayJob of Kubernetes."""
