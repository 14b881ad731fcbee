"""From a checkpoint to what ships: ONNX graph, manifest, model card."""
