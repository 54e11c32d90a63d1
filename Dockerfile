FROM python:3.11-slim

# DeepSpeed compiles operators on the machine they run on.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

# PyTorch for CPUs. With https://pypi.org/simple instead it is the one for NVIDIA GPUs.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

WORKDIR /opt/autotune
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt --extra-index-url "$TORCH_INDEX" torch

COPY pyproject.toml README.md ./
COPY autotune autotune
COPY search_spaces search_spaces
COPY trials trials
RUN pip install --no-cache-dir --constraint constraints.txt --extra-index-url "$TORCH_INDEX" '.[postgres]'

RUN useradd --create-home autotune \
    && install --directory --owner=autotune --group=autotune /home/autotune/.cache
USER autotune
WORKDIR /home/autotune
CMD ["autotune", "--help"]
