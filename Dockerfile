# The course and its grader in one image, where bubblewrap cannot be installed (macOS, Windows):
#   docker build -t tlcourse .
# docs/instructors.md says how to grade with it.
ARG BASE=python:3.12-slim-bookworm
FROM $BASE
RUN apt-get update \
    && apt-get install -y --no-install-recommends bubblewrap make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /course
COPY . .
# The small build of PyTorch; with an empty TORCH_INDEX pip takes the one for GPUs.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# Whoever grades is another user than the one who builds: weights and data lie open to all.
ENV TLCOURSE_CACHE=/course/cache
RUN make setup PIP_NO_CACHE_DIR=1 TORCH_INDEX=$TORCH_INDEX && chmod -R a+rwX /course/cache
# Graders side by side: one thread each. The name stands in the gradebook beside each change.
ENV OMP_NUM_THREADS=1 USER=grader
WORKDIR /class
ENTRYPOINT ["/course/.venv/bin/tlcourse"]
CMD ["--help"]
