"""All that imports Ray, and its arithmetic: the cluster, capacity, jobs, workers, trials, batch prediction."""
