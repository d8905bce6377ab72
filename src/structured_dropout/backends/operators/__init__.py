"""What the backends share whose layers are torch operators on kernels of their own (cpu, cuda)."""
