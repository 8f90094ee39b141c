"""How tensors are computed fast on this machine: devices, engines, kernels, processes."""
