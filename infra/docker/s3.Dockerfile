# The S3 store of compose.yaml: Versity's gateway over a folder, as a user that is not root. A cluster has a real store.
FROM versity/versitygw:v1.7.0
RUN adduser -D -u 1000 store \
    && install -d -o store -g store /data
USER 1000:1000
CMD ["--port", ":9000", "--health", "/health", "posix", "/data"]
