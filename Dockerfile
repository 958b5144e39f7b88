# The page of hyperclip-app in a container, and with it all other programs.
#
#   docker build --target cpu -t hyperclip .        --target cuda for NVIDIA's container runtime
#   docker run --rm -p 127.0.0.1:7860:7860 hyperclip
#   docker run --rm -v "$PWD:/data" --entrypoint hyperclip-demo hyperclip \
#       --input /data/photos --output /data/out --vocabulary "dog; road; sky"
#
# PyPI's torch for Linux brings CUDA. For a smaller image without it give the address of PyTorch's
# CPU wheels: --build-arg TORCH_INDEX_URL=…
FROM python:3.11-slim-bookworm AS base
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
WORKDIR /opt/hyperclip
COPY requirements.lock ./
ARG TORCH_INDEX_URL=
RUN pip install -c requirements.lock ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} torch torchvision \
    && pip install -c requirements.lock "setuptools<82"
COPY setup.py README.md LICENSE ./
COPY tools/install_detectron2.py tools/
COPY configs configs
COPY hyperclip hyperclip
COPY cliper cliper
RUN pip install -c requirements.lock ".[demo,diffusion,photos]" && python tools/install_detectron2.py
RUN useradd --uid 1000 --create-home hyperclip && mkdir -p /data /home/hyperclip/.cache \
    && chown hyperclip: /data /home/hyperclip/.cache
USER 1000
WORKDIR /data
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/', timeout=4)"]
# the page has to listen on the container's network: what the host publishes decides who can come
ENTRYPOINT ["hyperclip-app", "--host", "0.0.0.0"]

FROM base AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM base AS cpu
ENV CUDA_VISIBLE_DEVICES=""
