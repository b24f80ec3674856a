"""One module a scorer, each with `load(settings, places)`: an edited scorer reruns no other one."""
