# One image for every node: Ray, the locked dependencies and rayllm.
#
#   CPU:  docker build -t rayllm:0.1.0-ray2.60.0-cpu .
#   CUDA: docker build -t rayllm:0.1.0-ray2.60.0-cuda --build-arg FLAVOUR=gpu .
#
# Which build of torch is installed is decided by pip's index, as outside of the image: pass the index that PyTorch
# names for your CPU or CUDA version as --build-arg PIP_EXTRA_INDEX_URL=…
ARG RAY_VERSION=2.60.0
ARG FLAVOUR=cpu
FROM rayproject/ray:${RAY_VERSION}-py311-${FLAVOUR}

ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
# Ray's default niceness of workers, 15, leaves to training what the other processes of a node do not want.
ENV RAY_worker_niceness=0 RAY_USAGE_STATS_ENABLED=0 DS_BUILD_OPS=0 PIP_NO_CACHE_DIR=1

# A volume mounted here takes over this owner, so that the unprivileged user can write to it.
USER root
RUN mkdir -p /artifacts && chown ray:users /artifacts
USER ray

WORKDIR /home/ray/rayllm
COPY --chown=ray:users requirements.lock ./
RUN grep -E '^(setuptools|wheel)==' requirements.lock > /tmp/build.lock && python -m pip install -r /tmp/build.lock
RUN python -m pip install --no-build-isolation -r requirements.lock
COPY --chown=ray:users pyproject.toml README.md LICENSE ./
COPY --chown=ray:users rayllm rayllm
COPY --chown=ray:users jobs jobs
COPY --chown=ray:users configs configs
RUN python -m pip install --no-build-isolation --no-deps -e .

CMD ["rayllm", "doctor"]
