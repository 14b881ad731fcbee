"""From a checkpoint to what ships: ONNX graph, manifest and model card."""
