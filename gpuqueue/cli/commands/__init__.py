"""The commands of ``gpuqueue``, one module each, imported when the command is called."""
