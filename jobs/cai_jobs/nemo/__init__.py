"""Running NVIDIA's programs under the program contract: commands, child processes, checkpoints, logs, inputs."""
