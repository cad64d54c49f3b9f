"""What people expect of the project: a wheel, workflows, one version, servers to choose from."""
