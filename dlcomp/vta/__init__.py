"""The VTA accelerator: its configuration, instruction set, programs and simulators."""
