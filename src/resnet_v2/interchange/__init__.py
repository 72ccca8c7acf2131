"""Our networks in files, and in other people's: safetensors, MXNet, timm, ONNX."""
