# The app for a team: docker build -t prismatic . && docker run -p 8501:8501 -v /your/runs:/runs:ro prismatic
# The server only reads runs. Uploads lie in the container's /tmp until their session ends.
# docs/serving.md lists the settings: -v /your/secrets.toml:/app/.streamlit/secrets.toml:ro
# Always the same image, for every architecture: Dependabot proposes newer ones, and `docker buildx imagetools inspect
# python:3.12-slim` prints the digest of today's.
FROM python:3.12-slim@sha256:78387bc3881b8273120a12ebe6c1ab22b018ccc2c9adf565ae1ac9b536e184ea
WORKDIR /app
COPY requirements-app.lock .
RUN pip install --no-cache-dir --require-hashes --requirement requirements-app.lock \
    && useradd --create-home reader
COPY . .
USER reader
ENV PRISMATIC_RUNS=/runs PRISMATIC_CACHE=/tmp/prismatic
EXPOSE 8501
HEALTHCHECK CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8501/_stcore/health')"]
CMD ["streamlit", "run", "app.py", "--server.address=0.0.0.0", "--server.headless=true"]
