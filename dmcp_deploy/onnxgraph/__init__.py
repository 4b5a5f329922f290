"""ONNX files read: layers, shapes, cost, names, precision."""
