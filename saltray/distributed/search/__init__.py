"""The search for hyper-parameters: Ray Tune's trials, each a Ray Train job."""
