"""Fast computation on this machine: devices, engines, kernels, processes."""
