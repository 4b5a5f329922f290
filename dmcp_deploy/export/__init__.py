"""From a plan to a dense network, ONNX and engines."""
