# `resnet-v2 serve` on a CPU, with the versions of constraints.txt:
#   docker build --tag resnet-v2 .
#   docker run --publish 8000:8000 --memory 4g --volume "$PWD/model:/model:ro" resnet-v2 --prefix /model/NAME
FROM python:3.11-slim-bookworm

# PyTorch's own server has it without CUDA's libraries, which are several GB. Its dependencies come from PyPI.
WORKDIR /build
COPY constraints.txt pyproject.toml README.md LICENSE ./
RUN pip install --no-cache-dir --constraint constraints.txt setuptools \
 && pip install --no-cache-dir --no-deps --constraint constraints.txt --index-url https://download.pytorch.org/whl/cpu torch
COPY src src
RUN pip install --no-cache-dir --constraint constraints.txt --no-build-isolation '.[serve,onnx]' \
 && useradd --create-home --uid 1000 resnet

USER 1000
WORKDIR /home/resnet
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["resnet-v2", "serve", "--gpus", "", "--host", "0.0.0.0"]
