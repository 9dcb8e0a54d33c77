# docker build -t bench . && docker run --rm -v "$PWD:/work" bench run --seeds 2 --norm linf
# With an NVIDIA GPU: docker run --gpus all. Submitted code is confined by seccomp and Landlock in a container too.
FROM python:3.12-slim
COPY . /opt/bench
RUN pip install --no-cache-dir "/opt/bench[hub,timm,tensorboard]"
WORKDIR /work
ENTRYPOINT ["bench"]
CMD ["--help"]
