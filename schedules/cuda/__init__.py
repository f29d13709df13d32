"""TensorIR schedules for CUDA."""
