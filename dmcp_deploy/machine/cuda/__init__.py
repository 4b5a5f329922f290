"""A CUDA device: driver, memory, streams, and the libraries that call them."""
