# The chapters in JupyterLab, for a class: docker build -t linear-time . && docker run -p 8888:8888 linear-time
# The same environment as on Binder. The pages and the tests need `make`, which this image leaves out.
FROM mambaorg/micromamba:2.3.2
ARG MAMBA_DOCKERFILE_ACTIVATE=1
WORKDIR /home/mambauser/linear-time
COPY --chown=$MAMBA_USER:$MAMBA_USER binder binder
RUN micromamba install --yes --name base --file binder/environment.yml \
  && micromamba clean --all --yes
COPY --chown=$MAMBA_USER:$MAMBA_USER . .
RUN binder/postBuild
EXPOSE 8888
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--no-browser", "chapters"]
