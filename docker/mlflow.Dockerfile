# The MLflow server of docker/compose.yaml and docker/kubernetes/: it holds what the server needs and no PyTorch.
# Needs BuildKit. BASE as in docker/Dockerfile.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
COPY docker/mlflow.txt /tmp/
RUN --mount=type=bind,source=docker/wheels/rest,target=/local --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv install --no-deps --only-binary :all: --require-hashes --find-links /local \
        -r /tmp/mlflow.txt \
    && pip --python /opt/venv check && pip uninstall --yes pip setuptools wheel
COPY docker/mlflow-auth.ini /etc/mlflow/auth.ini
# Everything is set by variables; secrets come from outside: PGPASSWORD, AWS_*, MLFLOW_AUTH_ADMIN_PASSWORD and
# MLFLOW_FLASK_SERVER_SECRET_KEY. The addresses of the store leave out host, user and password: libpq takes PG*.
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 GIT_PYTHON_REFRESH=quiet MLFLOW_DISABLE_TELEMETRY=true \
    MLFLOW_AUTH_CONFIG_PATH=/etc/mlflow/auth.ini MLFLOW_BACKEND_STORE_URI=postgresql:///mlflow \
    MLFLOW_ARTIFACTS_DESTINATION=s3://mlflow/artifacts MLFLOW_HOST=0.0.0.0 MLFLOW_PORT=5000 \
    MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
EXPOSE 5000
WORKDIR /tmp
USER 10001:10001
CMD ["mlflow", "server", "--app-name", "basic-auth", "--workers", "1"]
LABEL org.opencontainers.image.title="MLflow server for Thawline" org.opencontainers.image.licenses="Apache-2.0"
