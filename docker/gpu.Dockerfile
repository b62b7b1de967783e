# verl's published vLLM image with verl and verl-mars. From the repository's root:
#   docker build -f docker/gpu.Dockerfile -t verl-mars:gpu .
#   docker run --rm -it --gpus all --shm-size 10g -v "$PWD/data:/work/data" verl-mars:gpu
# The image has CUDA 13.0, torch 2.11.0, vLLM 0.24.0 and flash-attn 2.8.3, but no verl: it is meant to be installed on
# top (https://github.com/verl-project/verl/blob/main/docker/README.md). Not tried on a GPU yet.
ARG VERL_IMAGE=verlai/verl:vllm024.latest
# hadolint ignore=DL3006
FROM ${VERL_IMAGE}

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_BREAK_SYSTEM_PACKAGES=1

WORKDIR /src/verl-mars
COPY pyproject.toml setup.py README.md LICENSE ./
COPY constraints constraints
COPY hydra_plugins hydra_plugins
COPY data_prep data_prep
COPY recipes recipes
COPY verl_mars verl_mars
# What the image has of torch and vLLM stays: a version that pip would replace ends the build.
RUN pip list --format=freeze | grep -E '^(torch|torchvision|torchaudio|vllm|flash[-_]attn)==' > /tmp/image.txt \
    && pip install "verl>=0.9.1,<0.10" "transformers==5.9.0" ".[math]" "qwen-vl-utils>=0.0.14" -c /tmp/image.txt \
    && python -c "import torch, vllm, verl, verl_mars; print(torch.__version__, vllm.__version__, verl.__version__)"

WORKDIR /work
CMD ["bash"]
