# The demo on a CPU, with the tested versions. From the repository's root:
#   docker build -f docker/cpu.Dockerfile -t verl-mars:cpu .
#   docker run --rm --shm-size 2g -v "$PWD/outputs:/work/outputs" verl-mars:cpu
FROM python:3.11-slim-bookworm

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE ./
COPY constraints constraints
COPY hydra_plugins hydra_plugins
COPY data_prep data_prep
COPY recipes recipes
COPY verl_mars verl_mars
# torch's CPU build is a quarter of the size: name its index with the build argument PIP_EXTRA_INDEX_URL.
ARG PIP_EXTRA_INDEX_URL=""
RUN pip install ".[cpu]" -c constraints/cpu.txt

# Results in a mounted folder belong to user 1000; build with --build-arg UID="$(id -u)" if yours is another.
ARG UID=1000
RUN useradd --create-home --uid "${UID}" mars && mkdir -p /work/outputs && chown -R mars /work
USER ${UID}
ENV HOME=/home/mars
WORKDIR /work
ENTRYPOINT ["verl-mars"]
CMD ["demo"]
