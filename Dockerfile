# selfcorrect in a container. On the CPU (grade, compare, eval, train, serve the embedded model):
#   docker build -t selfcorrect . && docker run --rm selfcorrect grade '\boxed{\frac{6}{4}}' 1.5
#   docker run --rm -v "$PWD/runs:/work/runs" selfcorrect demo
# With CUDA and vLLM, from the same file (needs the NVIDIA container toolkit; not built by us):
#   docker build -t selfcorrect:cuda --build-arg TORCH=https://pypi.org/simple --build-arg EXTRAS=vllm,report,logs .
#   docker run --rm --gpus all -v "$PWD/runs:/work/runs" selfcorrect:cuda doctor
FROM python:3.11-slim

# Where torch comes from: its builds for the CPU, or PyPI's, which bring CUDA.
ARG TORCH=https://download.pytorch.org/whl/cpu
ARG EXTRAS=train,report,logs

RUN apt-get update && apt-get install -y --no-install-recommends git build-essential \
    && rm -rf /var/lib/apt/lists/* && useradd --create-home selfcorrect && install -d -o selfcorrect /work
COPY pyproject.toml constraints.txt README.md LICENSE /src/
COPY selfcorrect /src/selfcorrect
COPY data_gen /src/data_gen
COPY train /src/train
COPY eval /src/eval
# torch first, by its own index alone, so that no other index decides which build it is.
RUN pip install --no-cache-dir --index-url "$TORCH" "$(grep '^torch==' /src/constraints.txt)" \
    && pip install --no-cache-dir -c /src/constraints.txt "/src[$EXTRAS]" && rm -rf /src

USER selfcorrect
WORKDIR /work
ENV HF_HOME=/work/.hf TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
ENTRYPOINT ["selfcorrect"]
CMD ["--help"]
