"""TensorIR schedules for CPUs, parametrised by vector width, registers and caches."""
