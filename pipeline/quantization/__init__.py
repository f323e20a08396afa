"""The quantiser: an FP32 ONNX model in, a QDQ model out."""
